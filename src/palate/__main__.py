"""`python -m palate`."""

from palate.cli import end, main

end(main())
