"""Operations that can stand in a layer's place, by their names, and networks with other operations than their usual ones."""
