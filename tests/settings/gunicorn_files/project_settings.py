"""Numbers from the project's own settings, names in capitals that gunicorn ignores, too, and the application."""

from shop_settings import GUNICORN

WORKERS = GUNICORN["workers"]
workers = WORKERS
wsgi_app = "shop:application"
proc_name = "shop"
pidfile = "shop.pid"
umask = 0o007
user = None
group = None
daemon = False
spew = False
tmp_upload_dir = None
raw_env = ["SHOP_STAGE=production"]
forwarded_allow_ips = "*"
secure_scheme_headers = {"X-FORWARDED-PROTOCOL": "ssl", "X-FORWARDED-PROTO": "https", "X-FORWARDED-SSL": "on"}
limit_request_line = 4094
limit_request_fields = 100
limit_request_field_size = 0
ssl_session_tickets = False
