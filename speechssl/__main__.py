"""``python -m speechssl`` is the same as ``speechssl``."""

from speechssl.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
