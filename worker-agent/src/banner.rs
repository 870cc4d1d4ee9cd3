//! Asks an SSH server from outside whether it lives: reads the start of what it says first. Does not log in.

use std::{io, net::SocketAddr, time::Duration};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};

/// Longest wait for the banner.
const BANNER_MAX: Duration = Duration::from_secs(1);
/// Longest wait before an sshd that takes connections and says nothing is down, too: on a machine whose memory or
/// processors are all in use by its tenant a second is nothing.
const SLOW_MAX: Duration = Duration::from_secs(30);

/// Whether an sshd answers at one of `addresses` within a second. One that sends callers away because too
/// many are waiting is alive.
pub async fn answers(addresses: &[SocketAddr]) -> bool {
    within(addresses, BANNER_MAX).await.unwrap_or(false)
}

/// Whether nobody listens at any of `addresses`, or who does says nothing for long: a slow sshd is not down.
pub async fn is_down(addresses: &[SocketAddr]) -> bool {
    !within(addresses, SLOW_MAX).await.unwrap_or(false)
}

/// Whether one is known to be down now; of one that is slow nothing is known yet.
pub async fn is_refused(addresses: &[SocketAddr]) -> bool {
    within(addresses, BANNER_MAX).await == Some(false)
}

async fn within(addresses: &[SocketAddr], at_most: Duration) -> Option<bool> {
    let ask = async {
        for address in addresses {
            if banner(*address).await.is_ok_and(|banner| is_alive(&banner)) {
                return true;
            }
        }
        false
    };
    timeout(at_most, ask).await.ok()
}

async fn banner(address: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let mut start = Vec::with_capacity(64);
    while start.len() < 4 && stream.read_buf(&mut start).await? > 0 {}
    Ok(start)
}

fn is_alive(banner: &[u8]) -> bool {
    [&b"SSH-"[..], b"Not allowed at this time", b"Exceeded MaxStartups"]
        .iter()
        .any(|start| banner.starts_with(start) || (banner.len() >= 4 && start.starts_with(banner)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throttling_sshd_is_alive_and_another_service_is_not() {
        assert!(
            is_alive(b"SSH-2.0-OpenSSH_9.2p1")
                && is_alive(b"Not allowed at this time\r\n")
                && is_alive(b"SSH-")
        );
        assert!(!is_alive(b"") && !is_alive(b"220 smtp") && !is_alive(b"S"));
    }
}
