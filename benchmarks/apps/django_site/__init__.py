"""P4: a Django project as `startproject` makes it, without its debug mode and database; all servers serve this one."""
