//! Instants and lengths of time: UTC, microseconds, 64 bits.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::time::Duration;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Bytes of a time of RFC 3339 with microseconds: `2025-11-21T01:53:20.123456Z`.
const RFC3339_MAX: usize = 27;

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Creates a timestamp from microseconds since the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Returns the instant `length` later, clamped to the end of the range.
    #[must_use]
    pub fn plus(self, length: Duration) -> Self {
        Self(self.0.saturating_add(micros(length)))
    }

    /// Returns the instant `length` earlier, clamped to the start of the range.
    #[must_use]
    pub fn minus(self, length: Duration) -> Self {
        Self(self.0.saturating_sub(micros(length)))
    }

    /// Returns the time since `earlier`; zero if this instant is before `earlier`.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Formats the instant as RFC 3339, its fraction without zeros at the end; none outside of the years 0 to 9999.
    /// A list of a thousand nodes shows five thousand instants: so the digits are written here.
    fn rfc3339(self, buffer: &mut [u8; RFC3339_MAX]) -> Option<&str> {
        let at = OffsetDateTime::from_unix_timestamp(self.as_secs()).ok()?;
        let (year, month, day) = at.to_calendar_date();
        let (hour, minute, second) = at.to_hms();
        *buffer = *b"0000-00-00T00:00:00.000000Z";
        put_digits(&mut buffer[..4], u32::try_from(year).ok()?);
        put_digits(&mut buffer[5..7], u32::from(u8::from(month)));
        put_digits(&mut buffer[8..10], u32::from(day));
        put_digits(&mut buffer[11..13], u32::from(hour));
        put_digits(&mut buffer[14..16], u32::from(minute));
        put_digits(&mut buffer[17..19], u32::from(second));
        put_digits(&mut buffer[20..26], u32::try_from(self.0.rem_euclid(1_000_000)).ok()?);
        let mut end = 26;
        while buffer[end - 1] == b'0' && end > 20 {
            end -= 1;
        }
        // Without a fraction there is no point either.
        let end = if end == 20 { 19 } else { end };
        buffer[end] = b'Z';
        std::str::from_utf8(&buffer[..=end]).ok()
    }
}

/// Writes the last digits of `number` that `place` has room for.
fn put_digits(place: &mut [u8], mut number: u32) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

fn micros(length: Duration) -> i64 {
    i64::try_from(length.as_micros()).unwrap_or(i64::MAX)
}

impl std::fmt::Display for Timestamp {
    /// RFC 3339 in UTC with microseconds, as the API shows it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.rfc3339(&mut [0; RFC3339_MAX]) {
            Some(text) => f.write_str(text),
            None => write!(f, "@{}us", self.0),
        }
    }
}

impl std::str::FromStr for Timestamp {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let at = OffsetDateTime::parse(text, &Rfc3339)
            .map_err(|error| format!("'{text}' is not an RFC 3339 time: {error}"))?;
        i64::try_from(at.unix_timestamp_nanos() / 1000)
            .map(Timestamp)
            .map_err(|_| format!("'{text}' is too far away"))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.rfc3339(&mut [0; RFC3339_MAX]) {
            Some(text) => serializer.serialize_str(text),
            None => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A lease's length or extension as clients give it: hours, may be fractional, more than zero and at
/// most what the operator allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hours(f64);

impl Hours {
    /// `hours` if it lies in `0 < hours <= max_hours`.
    ///
    /// # Errors
    /// A sentence that says which bound it broke.
    pub fn new(hours: f64, max_hours: f64) -> Result<Self, String> {
        if !hours.is_finite() || hours <= 0.0 {
            return Err(format!("must be more than 0 hours, not {hours}"));
        }
        if hours > max_hours {
            return Err(format!("must be at most {max_hours} hours, not {hours}"));
        }
        if hours * 3600.0 < 1.0 {
            return Err(format!("must be at least one second (0.00028 hours), not {hours}"));
        }
        Ok(Self(hours))
    }

    /// The same length as a [`Duration`], to the microsecond.
    pub fn duration(self) -> Duration {
        Duration::from_micros((self.0 * 3_600_000_000.0) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_reads_back_what_it_printed() {
        let at = Timestamp::from_micros(1_763_690_000_123_456);
        assert_eq!(at.to_string(), "2025-11-21T01:53:20.123456Z");
        assert_eq!(at.to_string().parse(), Ok(at));
    }

    #[test]
    fn a_timestamp_is_written_as_rfc_3339_has_it() {
        let start = OffsetDateTime::parse("0000-01-01T00:00:00Z", &Rfc3339).unwrap().unix_timestamp();
        let end = OffsetDateTime::parse("9999-12-31T23:59:59Z", &Rfc3339).unwrap().unix_timestamp();
        let fractions = [0, 1, 10, 100_000, 120_000, 123_456, 999_999];
        for (second, fraction) in (start..=end)
            .step_by(86_400 * 97 + 3_661)
            .chain([start, -1, 0, end])
            .zip(fractions.iter().cycle())
        {
            let micros = second * 1_000_000 + fraction;
            let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).unwrap();
            assert_eq!(Timestamp::from_micros(micros).to_string(), at.format(&Rfc3339).unwrap());
        }
        for micros in [start * 1_000_000 - 1, (end + 1) * 1_000_000, i64::MIN, i64::MAX] {
            assert_eq!(Timestamp::from_micros(micros).to_string(), format!("@{micros}us"));
        }
    }

    #[test]
    fn hours_keep_their_bounds() {
        for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY, 721.0, 1e300, 0.000_01] {
            assert!(Hours::new(wrong, 720.0).is_err(), "{wrong} was accepted");
        }
        assert_eq!(Hours::new(0.5, 720.0).map(Hours::duration), Ok(Duration::from_secs(1800)));
    }

    #[test]
    fn a_timestamp_counts_from_the_epoch() {
        let at = Timestamp::from_micros(-1_500_000);
        assert_eq!((at.as_micros(), at.as_secs()), (-1_500_000, -2));
    }
}
