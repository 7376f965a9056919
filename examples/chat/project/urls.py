from chat import views
from django.urls import re_path

urlpatterns = [
    re_path(r"^$", views.door, name="door"),
    re_path(r"^chat/(?P<room>[-a-zA-Z0-9_]{1,50})/$", views.room, name="room"),
]
