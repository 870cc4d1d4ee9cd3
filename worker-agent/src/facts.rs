//! What the machine is: read from /proc, /sys and nvidia-smi. Only reads; knows nothing of the network.

use crate::process;
use orion_domain::{credentials::SshPublicKey, node::Facts};
use std::{fs, net::IpAddr, path::Path, time::Duration};

/// Looks at the machine. `towards` is the address of this machine that faces the control plane; its card's
/// MAC address is the one to wake. Blocks for as long as nvidia-smi takes.
pub fn gather(towards: Option<IpAddr>) -> Facts {
    Facts {
        cpu_cores: std::thread::available_parallelism()
            .ok()
            .and_then(|cores| u32::try_from(cores.get()).ok()),
        memory_mb: memory_of_machine(),
        gpus: gpus(),
        mac: mac(towards),
        agent_version: Some(env!("CARGO_PKG_VERSION").into()),
    }
}

/// The host keys in `ssh_dir` (`ssh_host_*_key.pub`), ed25519 first, as `type base64`.
///
/// # Errors
/// There is none: registering without would leave the node waiting for an admin.
pub fn host_keys(ssh_dir: &Path) -> Result<Vec<String>, String> {
    let mut keys: Vec<String> = fs::read_dir(ssh_dir)
        .map_err(|error| format!("{} cannot be read: {error}", ssh_dir.display()))?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            (name.starts_with("ssh_host_") && name.ends_with("_key.pub")).then_some(entry.path())
        })
        .filter_map(|path| {
            let text = fs::read_to_string(&path).ok()?;
            match text.parse::<SshPublicKey>() {
                Ok(key) => Some(key.as_str().to_owned()),
                Err(why) => {
                    tracing::debug!("{} is not reported: {why}", path.display());
                    None
                }
            }
        })
        .collect();
    keys.sort_by_key(|key| (!key.starts_with("ssh-ed25519 "), key.clone()));
    if keys.is_empty() {
        return Err(format!(
            "there is no usable SSH host key in {}; `ssh-keygen -A` makes them",
            ssh_dir.display()
        ));
    }
    Ok(keys)
}

/// Load average over a minute, in hundredths.
pub fn load_percent() -> u32 {
    fs::read_to_string("/proc/loadavg").ok().and_then(|text| load_of(&text)).unwrap_or(0)
}

fn load_of(loadavg: &str) -> Option<u32> {
    let load: f64 = loadavg.split_whitespace().next()?.parse().ok()?;
    Some((load * 100.0).round() as u32)
}

/// `/proc/sys/kernel/random/boot_id`; empty where it cannot be read.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// In a container not more than its limit: /proc/meminfo is the whole machine's there.
fn memory_of_machine() -> Option<u64> {
    let whole = memory_mb(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limits = limits.iter().filter_map(|path| limit_mb(&fs::read_to_string(path).ok()?));
    Some(limits.fold(whole, u64::min))
}

/// A control group's limit; `max` (version 2) and a huge number (version 1) mean none.
fn limit_mb(text: &str) -> Option<u64> {
    Some(text.trim().parse::<u64>().ok()? / (1024 * 1024))
}

fn memory_mb(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}

fn gpus() -> Vec<String> {
    match process::run("nvidia-smi", &["-L"], Duration::from_secs(10)) {
        Ok(done) if done.status.success() => gpus_of_smi(&done.stdout),
        _ => {
            let Ok(cards) = fs::read_dir("/proc/driver/nvidia/gpus") else { return Vec::new() };
            let mut paths: Vec<_> = cards.filter_map(|card| Some(card.ok()?.path())).collect();
            paths.sort();
            paths
                .iter()
                .filter_map(|card| gpu_of_driver(&fs::read_to_string(card.join("information")).ok()?))
                .collect()
        }
    }
}

fn gpus_of_smi(list: &str) -> Vec<String> {
    list.lines()
        .filter(|line| line.starts_with("GPU "))
        .filter_map(|line| {
            let name = line.split_once(": ")?.1;
            Some(name.rsplit_once(" (UUID").map_or(name, |(name, _)| name).trim().to_owned())
        })
        .collect()
}

fn gpu_of_driver(information: &str) -> Option<String> {
    information.lines().find_map(|line| line.strip_prefix("Model:")).map(|name| name.trim().to_owned())
}

/// The MAC address of the card whose route leads to the network of `towards`, or of the default route, or of
/// the first card.
fn mac(towards: Option<IpAddr>) -> Option<String> {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let wanted = match towards {
        Some(IpAddr::V4(ip)) if !ip.is_loopback() => u32::from(ip),
        _ => 0,
    };
    card_of_route(&routes, wanted).and_then(|card| mac_of(&card)).or_else(|| {
        let mut cards: Vec<_> = fs::read_dir("/sys/class/net")
            .ok()?
            .filter_map(|card| card.ok()?.file_name().into_string().ok())
            .collect();
        cards.sort();
        cards.iter().find_map(|card| mac_of(card))
    })
}

fn mac_of(card: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/sys/class/net/{card}/address")).ok()?;
    let mac = text.trim();
    (mac.len() == 17 && mac != "00:00:00:00:00:00").then(|| mac.to_owned())
}

/// The interface of the longest matching route in `/proc/net/route` (addresses there are hexadecimal in the
/// machine's byte order).
fn card_of_route(routes: &str, ip: u32) -> Option<String> {
    routes
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let number = |at: usize| {
                u32::from_str_radix(fields.get(at)?, 16).ok().map(|raw| u32::from_be_bytes(raw.to_ne_bytes()))
            };
            let (to, mask) = (number(1)?, number(7)?);
            (ip & mask == to).then(|| (mask.count_ones(), (*fields.first().unwrap_or(&"")).to_owned()))
        })
        .max_by_key(|(bits, _)| *bits)
        .map(|(_, card)| card)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_named_as_nvidia_names_them() {
        let list = "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-1)\n  MIG 1g.5gb Device 0: (UUID: MIG-2)\nGPU 1: Tesla T4 (UUID: GPU-3)\n";
        assert_eq!(gpus_of_smi(list), ["NVIDIA A100-SXM4-40GB", "Tesla T4"]);
        assert_eq!(gpus_of_smi("No devices found.\n"), [] as [&str; 0]);
        assert_eq!(gpu_of_driver("Model: \t\t Tesla T4\nIRQ: 5\n").unwrap(), "Tesla T4");
    }

    #[test]
    fn memory_and_load_are_read_in_their_units() {
        assert_eq!(memory_mb("MemTotal:        8037440 kB\nMemFree: 1 kB\n"), Some(7849));
        assert_eq!(limit_mb("268435456\n"), Some(256));
        assert_eq!(limit_mb("max\n"), None, "no limit");
        assert_eq!(load_of("1.27 0.80 0.60 1/200 4242\n"), Some(127));
    }

    #[test]
    fn the_card_is_that_of_the_longest_route() {
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                      eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\n\
                      eth1\t00004D0A\t00000000\t0001\t0\t0\t0\t0000FFFF\n";
        assert_eq!(card_of_route(routes, u32::from(std::net::Ipv4Addr::new(10, 77, 0, 5))).unwrap(), "eth1");
        assert_eq!(card_of_route(routes, u32::from(std::net::Ipv4Addr::new(10, 78, 0, 5))).unwrap(), "eth0");
        assert_eq!(card_of_route("", 1), None);
    }

    #[test]
    fn host_keys_start_with_ed25519_and_have_no_comment() {
        let dir = tempfile::tempdir().unwrap();
        assert!(host_keys(dir.path()).unwrap_err().contains("ssh-keygen -A"));
        for kind in ["ecdsa", "ed25519"] {
            let file = dir.path().join(format!("ssh_host_{kind}_key"));
            let args = ["-q", "-t", kind, "-N", "", "-C", "root@here", "-f", file.to_str().unwrap()];
            assert!(process::run("ssh-keygen", &args, Duration::from_secs(10)).unwrap().status.success());
        }
        fs::write(dir.path().join("ssh_host_old_key.pub"), "ssh-dss AAAA x\n").unwrap();
        let keys = host_keys(dir.path()).unwrap();
        assert_eq!(keys.len(), 2);
        assert!(keys[0].starts_with("ssh-ed25519 ") && keys[1].starts_with("ecdsa-"));
        assert!(keys.iter().all(|key| key.split(' ').count() == 2), "{keys:?}");
    }
}
