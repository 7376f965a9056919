"""All logs as objects on stdout, by a dict for gunicorn's loggers and a formatter of the project's."""

import json
import logging


class Formatter(logging.Formatter):
    def format(self, record):
        return json.dumps({"severity": record.levelname, "logger": record.name, "text": record.getMessage()})


class WithoutHealthChecks(logging.Filter):
    def filter(self, record):
        return "/healthz" not in record.getMessage()


workers = 1
accesslog = "-"
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "root": {"level": "INFO", "handlers": ["console"]},
    "filters": {"health": {"()": WithoutHealthChecks}},
    "formatters": {"json": {"()": Formatter}},
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "stream": "ext://sys.stdout",
            "formatter": "json",
            "filters": ["health"],
        }
    },
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["console"], "propagate": False},
        "gunicorn.access": {"level": "INFO", "handlers": ["console"], "propagate": False},
    },
}
