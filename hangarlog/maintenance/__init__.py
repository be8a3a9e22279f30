"""Operations on a whole store: verify, repair and back up."""
