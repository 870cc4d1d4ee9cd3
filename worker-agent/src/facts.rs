//! What the machine is: read from /proc, /sys and nvidia-smi. Only reads; knows nothing of the network.

use crate::{gpus, process};
use orion_domain::{
    Clock as _, SystemClock,
    credentials::SshPublicKey,
    node::{Facts, Gpu},
};
use sha2::{Digest as _, Sha256};
use std::{fs, net::IpAddr, path::Path, time::Duration};

/// Looks at the machine. `towards` is the address of this machine that faces the control plane; its card's
/// MAC address is the one to wake. `given` are the GPUs of the agent's settings. Blocks for as long as nvidia-smi takes.
pub fn gather(towards: Option<IpAddr>, given: Vec<Gpu>) -> Facts {
    let gpu_devices = if given.is_empty() { gpus::of_smi() } else { given };
    Facts {
        cpu_cores: std::thread::available_parallelism()
            .ok()
            .and_then(|cores| u32::try_from(cores.get()).ok()),
        memory_mb: memory_of_machine(),
        gpus: match &gpu_devices[..] {
            [] => gpu_names(),
            devices => devices.iter().map(|gpu| gpu.model.clone()).collect(),
        },
        gpu_devices,
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

/// The wall clock, in milliseconds since 1970.
pub fn clock_ms() -> i64 {
    SystemClock.now().as_micros() / 1_000
}

/// `/proc/sys/kernel/random/boot_id`; empty where it cannot be read.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// Returns the SHA-256 (hex) of `/etc/machine-id`, which is nobody else's to know (machine-id(5)). None where there is none,
/// and in a container: containers of one image may have the same one, and run one kernel.
pub fn machine_id_sha256() -> Option<String> {
    if is_container(Path::new("/")) {
        return None;
    }
    sha256_of_machine_id(&fs::read_to_string("/etc/machine-id").ok()?)
}

fn sha256_of_machine_id(text: &str) -> Option<String> {
    let id = text.trim();
    let is_one = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let digest = Sha256::digest(format!("orion machine {}", id.to_ascii_lowercase()));
    is_one.then(|| digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Name of the pid namespace that the kernel starts with (`PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";
/// Where the kernel names its boot; some container managers (LXC, systemd-nspawn) mount a file of the container's own there.
const BOOT_ID: &str = "proc/sys/kernel/random/boot_id";

/// Tells whether the machine below `root` is a container: by the marks that container managers leave, by the environment of
/// its first process or of this one, or because it has a pid namespace of its own and yet the kernel's boot id.
fn is_container(root: &Path) -> bool {
    let marks = [".dockerenv", "run/.containerenv", "run/systemd/container", "var/run/secrets/kubernetes.io"];
    marks.iter().any(|mark| root.join(mark).exists())
        || ["proc/1/environ", "proc/self/environ"].iter().any(|file| names_container(&root.join(file)))
        || (has_own_pid_namespace(root) && !has_own_boot_id(root))
}

/// Tells whether an environment has the variable that container managers set for the first process, or the one that
/// Kubernetes sets in each container.
fn names_container(environment: &Path) -> bool {
    let environment = fs::read(environment).unwrap_or_default();
    let variables: [&[u8]; 2] = [b"container=", b"KUBERNETES_SERVICE_HOST="];
    environment.split(|byte| *byte == 0).any(|entry| variables.iter().any(|name| entry.starts_with(name)))
}

fn has_own_pid_namespace(root: &Path) -> bool {
    fs::read_link(root.join("proc/self/ns/pid")).is_ok_and(|name| name != Path::new(INITIAL_PID_NAMESPACE))
}

/// Tells whether something is mounted over the kernel's boot id: the fifth field of a line is where.
fn has_own_boot_id(root: &Path) -> bool {
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(4).is_some_and(|at| at.trim_start_matches('/') == BOOT_ID))
}

/// Returns the machine's memory; in a container not more than its limit, since /proc/meminfo is the whole
/// machine's there.
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

fn gpu_names() -> Vec<String> {
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
    fn a_machine_id_is_named_by_its_hash_and_what_is_none_is_not() {
        let id = "0123456789abcdef0123456789abcdef";
        let sha256 = sha256_of_machine_id(&format!("{id}\n")).unwrap();
        assert_eq!((sha256.len(), sha256.contains("0123456789abcdef")), (64, false));
        assert_eq!(sha256_of_machine_id(&id.to_uppercase()), Some(sha256));
        for none in ["", "uninitialized\n", "0123456789abcdef0123456789abcdeg", "0123"] {
            assert_eq!(sha256_of_machine_id(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_container_is_known_by_the_marks_of_its_manager() {
        let root = tempfile::tempdir().unwrap();
        assert!(!is_container(root.path()));
        let process = root.path().join("proc/1");
        fs::create_dir_all(&process).unwrap();
        fs::write(process.join("environ"), "HOME=/\0mycontainer=x\0").unwrap();
        assert!(!is_container(root.path()));
        fs::write(process.join("environ"), "HOME=/\0container=lxc\0").unwrap();
        assert!(is_container(root.path()));
        fs::remove_dir_all(process).unwrap();
        fs::write(root.path().join(".dockerenv"), "").unwrap();
        assert!(is_container(root.path()));
    }

    #[test]
    fn a_pod_is_known_by_its_environment_and_a_bare_container_by_its_pid_namespace() {
        let root = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for process in ["1", "self"] {
            let environment = format!("proc/{process}/environ");
            put(&environment, "HOME=/\0KUBERNETES_SERVICE_HOST=10.0.0.1\0");
            assert!(is_container(root.path()), "{process}");
            put(&environment, "HOME=/\0KUBERNETES_SERVICE=x\0");
            assert!(!is_container(root.path()), "{process}");
        }
        let namespaces = root.path().join("proc/self/ns");
        fs::create_dir_all(&namespaces).unwrap();
        let enter = |name: &str| {
            let _ = fs::remove_file(namespaces.join("pid"));
            std::os::unix::fs::symlink(name, namespaces.join("pid")).unwrap();
        };
        enter("pid:[4026531836]");
        assert!(!is_container(root.path()), "a machine's own processes");
        enter("pid:[4026532199]");
        assert!(is_container(root.path()), "its kernel, and so its boot id, is that of others");
        put("proc/self/mountinfo", "36 35 0:5 / /proc/sys ro,relatime - proc proc rw\n");
        assert!(is_container(root.path()));
        put(
            "proc/self/mountinfo",
            "36 35 0:5 /boot_id /proc/sys/kernel/random/boot_id rw - tmpfs tmpfs rw\n",
        );
        assert!(!is_container(root.path()), "it has a boot id of its own, as a machine has");
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
