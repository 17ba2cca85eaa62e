"""From predictions to what Detectron2 returns."""
