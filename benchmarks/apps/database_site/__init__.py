"""P7: a Django project for offload, whose consumer waits for the database."""
