from django.urls import path
from primes import views

urlpatterns = [
    path("", views.page, name="page"),
    path("start/", views.start, name="start"),
    path("cancel/", views.cancel, name="cancel"),
]
