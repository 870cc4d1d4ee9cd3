//! One file of `/var/lib/orion/leases`: who may log in until when. The playbooks write them; the agent
//! changes deadlines and marks in them, and keeps lines that it does not know.

use orion_domain::LeaseId;

/// Lowest uid that a lease file may name: a file that names root or a system account is not obeyed.
pub const UID_MIN: u32 = 1000;

/// A lease file, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseFile {
    lines: Vec<(String, String)>,
    /// The account's name.
    pub user: String,
    /// Its uid.
    pub uid: u32,
    /// The lease.
    pub lease: LeaseId,
    /// The boot that `deadline_boot_s` counts from.
    pub boot_id: String,
    /// When to lock, in seconds of `CLOCK_BOOTTIME`.
    pub deadline_boot_s: u64,
    /// The same by the wall clock, seconds since 1970.
    pub deadline_unix_s: i64,
    /// Seconds that remained when the file was last saved.
    pub remaining_s: u64,
    /// Whether the account has been locked at its deadline.
    pub locked: bool,
}

impl LeaseFile {
    /// Understands the file that is called `name`.
    ///
    /// # Errors
    /// What is wrong with it; also when it is cut off, which a file that is just being written may be.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        if !text.ends_with('\n') {
            return Err("it is cut off".into());
        }
        let mut lines: Vec<(String, String)> = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let (key, value) = line.split_once('=').ok_or_else(|| format!("'{line}' is no key=value"))?;
            if lines.iter().any(|(known, _)| known == key) {
                return Err(format!("{key} stands in it twice"));
            }
            lines.push((key.into(), value.into()));
        }
        let value = |key: &str| {
            let found = lines.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str());
            found.filter(|value| !value.is_empty()).ok_or_else(|| format!("{key} is missing"))
        };
        let file = Self {
            user: value("user")?.into(),
            uid: number(&value, "uid")?,
            lease: LeaseId(number(&value, "lease")?),
            boot_id: value("boot_id")?.into(),
            deadline_boot_s: number(&value, "deadline_boot_s")?,
            deadline_unix_s: number(&value, "deadline_unix_s")?,
            remaining_s: number(&value, "remaining_s")?,
            locked: value("locked").is_ok_and(|locked| locked == "1"),
            lines: Vec::new(),
        };
        if name.parse() != Ok(file.uid) {
            return Err(format!("it names uid {} and not its own", file.uid));
        }
        if file.uid < UID_MIN {
            return Err(format!("uid {} is no tenant's", file.uid));
        }
        Ok(Self { lines, ..file })
    }

    /// The file's text: lines keep their order, unknown ones their value.
    pub fn render(&self) -> String {
        let known = [
            ("user", self.user.clone()),
            ("uid", self.uid.to_string()),
            ("lease", self.lease.to_string()),
            ("boot_id", self.boot_id.clone()),
            ("deadline_boot_s", self.deadline_boot_s.to_string()),
            ("deadline_unix_s", self.deadline_unix_s.to_string()),
            ("remaining_s", self.remaining_s.to_string()),
            ("locked", if self.locked { "1".into() } else { "0".into() }),
        ];
        let mut text = String::new();
        let mut add = |key: &str, value: &str| text.extend([key, "=", value, "\n"]);
        for (key, value) in &self.lines {
            let new = known.iter().find(|(name, _)| name == key).map_or(value, |(_, new)| new);
            add(key, new);
        }
        if self.locked && !self.lines.iter().any(|(key, _)| key == "locked") {
            add("locked", "1");
        }
        text
    }
}

fn number<'a, N: std::str::FromStr>(
    value: &impl Fn(&str) -> Result<&'a str, String>,
    key: &str,
) -> Result<N, String> {
    let text = value(key)?;
    text.parse().map_err(|_| format!("{key} is '{text}' and no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "user=alice\nuid=200017\nlease=42\nboot_id=b\ndeadline_boot_s=900\n\
                        deadline_unix_s=1763690000\nremaining_s=60\n";

    #[test]
    fn a_file_reads_back_as_it_was_with_lines_from_the_future() {
        let text = format!("{TEXT}fence=strict\n");
        let mut file = LeaseFile::parse("200017", &text).unwrap();
        assert_eq!((file.lease, file.deadline_boot_s, file.locked), (LeaseId(42), 900, false));
        assert_eq!(file.render(), text);
        file.locked = true;
        assert_eq!(file.render(), format!("{text}locked=1\n"));
        assert!(LeaseFile::parse("200017", &file.render()).unwrap().locked);
    }

    #[test]
    fn a_file_that_makes_no_sense_is_refused() {
        let cut = &TEXT[..TEXT.len() - 1];
        let twice = format!("{TEXT}uid=200017\n");
        for (name, text) in [
            ("200017", ""),
            ("200017", "hello\n"),
            ("200017", cut),
            ("200017", "user=alice\nuid=200017\n"),
            ("200017", twice.as_str()),
            ("200018", TEXT),
            ("200017", &TEXT.replace("=900", "=soon")),
            ("200017", &TEXT.replace("=900", "=-1")),
            ("0", &TEXT.replace("uid=200017", "uid=0")),
        ] {
            assert!(LeaseFile::parse(name, text).is_err(), "{name}: {text:?} was accepted");
        }
    }
}
