"""Lightning callbacks: mining, evaluation, galleries, checkpoints and reports."""
