//! What a booking system asks for, checked.

use orion_domain::container::ImageName;
use serde::Deserialize;
use serde_json::Value;

/// Longest name of a user.
const USER_CHARS_MAX: usize = 40;
/// Least memory, as Docker has it.
const MEMORY_BYTES_MIN: u64 = 6 * 1024 * 1024;
const NANO: f64 = 1_000_000_000.0;

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    user_id: Value,
    image: Option<String>,
    cpu: Option<Value>,
    memory: Option<Value>,
    port: Option<Value>,
}

/// A container to start.
#[derive(Debug, PartialEq)]
pub struct Start {
    /// The user, as it stands in the container's name.
    pub user: String,
    /// Name of the image.
    pub image: ImageName,
    /// Limits and port.
    pub wish: Wish,
}

/// Limits and port of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Billionths of a core.
    pub cpu_nano: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// The port inside and outside.
    pub port: u16,
}

impl Start {
    /// Reads a body.
    pub fn read(body: &[u8]) -> Result<Self, String> {
        let Body { user_id, image, cpu, memory, port } =
            serde_json::from_slice(body).map_err(|error| format!("the body cannot be read: {error}"))?;
        let image = image.filter(|image| !image.is_empty()).ok_or("Missing image parameter")?;
        let image = image.parse().map_err(|problem| format!("image {problem}"))?;
        let wish = Wish {
            cpu_nano: cpu.map_or(Ok(1_000_000_000), |cpu| nano(&cpu))?,
            memory_bytes: memory.map_or(Ok(2 << 30), |memory| bytes(&memory))?,
            port: port.map_or(Ok(8888), |port| port_of(&port))?,
        };
        Ok(Self { user: user(&user_id)?, image, wish })
    }
}

/// The text of a string or number.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn user(value: &Value) -> Result<String, String> {
    let is_plain = |text: &String| {
        (1..=USER_CHARS_MAX).contains(&text.len())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
    };
    text(value)
        .filter(is_plain)
        .ok_or_else(|| format!("user_id must be a number, or 1 to {USER_CHARS_MAX} letters, digits, _ and -"))
}

fn nano(value: &Value) -> Result<u64, String> {
    let cpus = text(value).and_then(|text| text.parse::<f64>().ok());
    let cpus = cpus
        .filter(|cpus| (0.01..=1024.0).contains(cpus))
        .ok_or("cpu must be a number of cores, at least 0.01")?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 10^7 and 2^40")]
    Ok((cpus * NANO).round() as u64)
}

/// `512m`, `2g`, or a number of bytes.
fn bytes(value: &Value) -> Result<u64, String> {
    let wrong = || "memory must be a number with b, k, m or g, such as 2g, and at least 6m".to_owned();
    let text = text(value).ok_or_else(wrong)?.to_ascii_lowercase();
    let text = text.strip_suffix('b').filter(|rest| !rest.is_empty()).unwrap_or(&text);
    let (number, shift) = match text.chars().last() {
        Some('k') => (&text[..text.len() - 1], 10),
        Some('m') => (&text[..text.len() - 1], 20),
        Some('g') => (&text[..text.len() - 1], 30),
        Some(_) | None => (text, 0),
    };
    let amount = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    amount.filter(|bytes| (MEMORY_BYTES_MIN..=1 << 50).contains(bytes)).ok_or_else(wrong)
}

fn port_of(value: &Value) -> Result<u16, String> {
    let port = text(value).and_then(|text| text.parse::<u16>().ok()).filter(|port| *port >= 1024);
    port.ok_or_else(|| "port must be a number from 1024 to 65535".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(body: &Value) -> Result<Start, String> {
        Start::read(body.to_string().as_bytes())
    }

    #[test]
    fn what_is_left_out_has_the_booking_systems_own_values() {
        let start = read(&json!({ "user_id": 7, "image": "jupyter/notebook" })).unwrap();
        let wish = Wish { cpu_nano: 1_000_000_000, memory_bytes: 2 << 30, port: 8888 };
        assert_eq!((start.user.as_str(), start.wish), ("7", wish));
        assert_eq!(start.image.familiar(), "jupyter/notebook:latest");
        let start =
            read(&json!({ "user_id": "ada", "image": "x", "cpu": 0.5, "memory": "512MB", "port": "9000" }));
        let wish = Wish { cpu_nano: 500_000_000, memory_bytes: 512 << 20, port: 9000 };
        assert_eq!(start.unwrap().wish, wish);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        assert_eq!(read(&json!({ "user_id": 7 })).unwrap_err(), "Missing image parameter");
        assert_eq!(read(&json!({ "user_id": 7, "image": "" })).unwrap_err(), "Missing image parameter");
        let base = json!({ "user_id": 7, "image": "x" });
        for (field, value) in [
            ("user_id", json!(null)),
            ("user_id", json!("a b")),
            ("user_id", json!("../x")),
            ("image", json!("-v /:/x")),
            ("cpu", json!(0)),
            ("cpu", json!("many")),
            ("memory", json!("2x")),
            ("memory", json!("1m")),
            ("memory", json!("99999999999999999999g")),
            ("memory", json!("é")),
            ("port", json!(22)),
            ("port", json!(70_000)),
        ] {
            let mut body = base.clone();
            body[field] = value;
            let problem = read(&body).unwrap_err();
            assert!(problem.contains(field), "{body}: {problem}");
        }
        assert!(Start::read(b"{").is_err());
    }
}
