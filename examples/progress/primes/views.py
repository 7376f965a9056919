import secrets

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from primes import tasks

LIMITS = [10_000_000, 100_000_000, 1_000_000_000]


def visitor_of(request: HttpRequest) -> str:
    """Who this is: a random name in a signed cookie."""
    visitor: str = request.session.setdefault("visitor", secrets.token_urlsafe(12))
    return visitor


@require_safe
@never_cache
def page(request: HttpRequest) -> HttpResponse:
    """The page. What it shows of a task comes over its WebSocket, which has the same path."""
    visitor_of(request)
    return _page(request)


@require_POST
def start(request: HttpRequest) -> HttpResponse:
    """Give a task to the workers."""
    limits = {str(limit): limit for limit in LIMITS}
    limit = limits.get(request.POST.get("limit", ""))
    if limit is None:
        return _page(request, "Choose one of the numbers.", 400)
    try:
        tasks.begin(visitor_of(request), limit)
    except tasks.NotTaken:
        return _page(request, "The workers have too much to do, or cannot be reached. Please try again later.", 503)
    return redirect("page")


@require_POST
def cancel(request: HttpRequest) -> HttpResponse:
    """Have the visitor's task end."""
    tasks.cancel(visitor_of(request))
    return redirect("page")


def _page(request: HttpRequest, problem: str = "", status: int = 200) -> HttpResponse:
    return render(request, "primes/page.html", {"limits": LIMITS, "problem": problem}, status=status)
