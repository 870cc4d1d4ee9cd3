-- The leases of the last hour, for the checks of every minute.
ALTER TABLE leases ADD KEY IF NOT EXISTS leases_ended (ended_at);
