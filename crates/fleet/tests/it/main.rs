//! Integration tests of the fleet crate. They need root and Linux namespaces: accounts and processes are real.

mod eviction;
mod node;
mod playbook_account;
mod playbook_boot;
mod playbook_deadline;
mod playbook_delete;
mod playbook_faults;
mod playbook_input;
mod playbook_kept;
mod playbook_uids;
mod removal;
mod rights;
mod staying;
