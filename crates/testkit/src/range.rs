//! Who uses which network: several test processes run at once, and each set of workers needs a /16 of its
//! own. A lock on a file, which the kernel drops with the process, claims 10.N.0.0/16.

use std::fs::{self, File};
use std::path::PathBuf;

const CLAIMS_DIRECTORY: &str = "/tmp/orion-testkit";
const FIRST: u8 = 78;
const LAST: u8 = 120;

/// A claimed 10.N.0.0/16; free again when dropped.
pub(crate) struct AddressRange {
    pub(crate) number: u8,
    /// Locked as long as it is open.
    pub(crate) lock: File,
}

impl AddressRange {
    /// The lowest range that nobody holds and that `is_usable` accepts (called with the number while it is
    /// claimed).
    pub(crate) fn claim(is_usable: impl Fn(u8) -> bool) -> Self {
        fs::create_dir_all(CLAIMS_DIRECTORY).expect("/tmp is writable");
        (FIRST..=LAST)
            .filter_map(|number| {
                let path = PathBuf::from(CLAIMS_DIRECTORY).join(format!("range-{number}.lock"));
                let lock = File::options().create(true).append(true).open(path).expect("a lock file in /tmp");
                lock.try_lock().is_ok().then_some(Self { number, lock })
            })
            .find(|range| is_usable(range.number) && !is_routed(range.number))
            .unwrap_or_else(|| panic!("every range from 10.{FIRST}.0.0/16 to 10.{LAST}.0.0/16 is in use"))
    }
}

/// Whether the machine itself has a route into 10.`number`.0.0/16.
fn is_routed(number: u8) -> bool {
    // columns: interface, destination as little-endian hexadecimal, gateway, …
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let destinations = routes.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1));
    destinations
        .filter_map(|hexadecimal| u32::from_str_radix(hexadecimal, 16).ok())
        .any(|destination| destination.to_le_bytes()[..2] == [10, number])
}
