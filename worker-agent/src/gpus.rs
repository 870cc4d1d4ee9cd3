//! GPU devices of the machine: from nvidia-smi, or from a list in the agent's settings.

use crate::process;
use orion_domain::node::Gpu;
use std::time::Duration;

/// Reads a list such as `uuid=/dev/nvidia0,model=Tesla T4,memory_mb=15360;uuid=/dev/nvidia1`.
///
/// # Errors
/// The entry that is wrong.
pub fn parse(text: &str) -> Result<Vec<Gpu>, String> {
    let entries = text.split(';').map(str::trim).filter(|entry| !entry.is_empty());
    (0..).zip(entries).map(|(number, entry)| one(number, entry)).collect()
}

fn one(number: u32, entry: &str) -> Result<Gpu, String> {
    let wrong = |why: &str| {
        format!("'{entry}': {why}\nhint: such as uuid=/dev/nvidia0,model=Tesla T4,memory_mb=15360")
    };
    let mut gpu = Gpu { uuid: String::new(), number, model: "unknown".into(), memory_mb: 0 };
    for pair in entry.split(',') {
        let (key, value) = pair.split_once('=').ok_or_else(|| wrong("a GPU is given by key=value"))?;
        match (key.trim(), value.trim()) {
            ("uuid", uuid) => gpu.uuid = uuid.to_owned(),
            ("model", model) => gpu.model = model.to_owned(),
            ("memory_mb", size) => {
                gpu.memory_mb = size.parse().map_err(|_| wrong("memory_mb is a number of MiB"))?;
            }
            (_, _) => return Err(wrong("the keys are uuid, model and memory_mb")),
        }
    }
    if gpu.uuid.is_empty() { Err(wrong("uuid is missing")) } else { Ok(gpu) }
}

/// Asks nvidia-smi; empty where there is none.
pub fn of_smi() -> Vec<Gpu> {
    let query = ["--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"];
    match process::run("nvidia-smi", &query, Duration::from_secs(10)) {
        Ok(done) if done.status.success() => done.stdout.lines().filter_map(of_line).collect(),
        Ok(_) | Err(_) => Vec::new(),
    }
}

fn of_line(line: &str) -> Option<Gpu> {
    let mut fields = line.split(',').map(str::trim);
    let (number, uuid) = (fields.next()?.parse().ok()?, fields.next()?.to_owned());
    let (model, memory_mb) = (fields.next()?.to_owned(), fields.next()?.parse().unwrap_or(0));
    Some(Gpu { uuid, number, model, memory_mb })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(uuid: &str, number: u32, model: &str, memory_mb: u64) -> Gpu {
        Gpu { uuid: uuid.into(), number, model: model.into(), memory_mb }
    }

    #[test]
    fn devices_are_listed_in_the_settings_or_by_nvidia() {
        assert_eq!(
            parse("uuid=/dev/null,model=Null 1,memory_mb=5; uuid=/dev/zero;"),
            Ok(vec![gpu("/dev/null", 0, "Null 1", 5), gpu("/dev/zero", 1, "unknown", 0)])
        );
        assert_eq!(parse(""), Ok(Vec::new()));
        for wrong in ["/dev/null", "model=x", "uuid=a,size=5", "uuid=a,memory_mb=x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            of_line("0, GPU-5b1c2d9e, NVIDIA A100-SXM4-40GB, 40960"),
            Some(gpu("GPU-5b1c2d9e", 0, "NVIDIA A100-SXM4-40GB", 40960))
        );
        assert_eq!(of_line("No devices were found"), None);
    }
}
