"""``python -m chronolens_gateway --host HOST --port PORT``."""

from chronolens_gateway.main import main

if __name__ == "__main__":
    main()
