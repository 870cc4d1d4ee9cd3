//! The built `orion` against an API that follows a script: what it sends, what it shows, how it ends. Against the
//! real API, a real database and real nodes it is tested in `e2e/`.

mod accounts;
mod accounts_users;
mod completions;
mod events;
mod images;
mod leases;
mod leases_rent;
mod leases_ssh;
mod nodes;
mod operations_brake;
mod operations_status;
mod up;
mod webhooks;
