SECRET_KEY = "for tests only"
USE_TZ = True
ALLOWED_HOSTS = ["testserver", ".example.org"]
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django_offload",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
ROOT_URLCONF = "testsite.urls"
CHANNEL_LAYERS = {
    "default": {"BACKEND": "offload.layers.memory.MemoryLayer", "ROUTING": "testsite.routing.channel_routing"},
}
