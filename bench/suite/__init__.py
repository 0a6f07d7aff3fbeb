"""The suite file and the matrix of cells it stands for."""
