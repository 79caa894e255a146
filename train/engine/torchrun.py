"""torchrun that ends with the process that started it: python -m train.engine.torchrun OPTIONS."""

from torch.distributed.run import main

from schemas.signals import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    main()
