//! The testkit against the machine: real namespaces, real sshd, real MariaDB. Needs root.

#[cfg(test)]
mod faults;
#[cfg(test)]
mod kinds;
mod logins;
#[cfg(test)]
mod mariadb;
#[cfg(test)]
mod workers;
