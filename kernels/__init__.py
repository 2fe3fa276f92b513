"""Operations on tensors, one folder each: contract, reference, implementations."""
