-- The leases of the last hour, for the checks of every minute.
CREATE INDEX leases_ended ON leases (ended_at);
