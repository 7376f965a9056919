"""A logger of the project's, made of gunicorn's, and a dict that only changes gunicorn's defaults."""

import logging

from gunicorn.glogging import Logger


class ShopLogger(Logger):
    def setup(self, cfg):
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))


workers = 1
capture_output = True
enable_stdio_inheritance = True
logger_class = ShopLogger
logconfig_dict = {"loggers": {"gunicorn.error": {"level": "INFO", "handlers": ["console"], "propagate": False}}}
