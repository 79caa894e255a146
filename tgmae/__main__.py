from tgmae.cli import main

main()
