//! Whether there is a private half to the key that a lease was rented with: a file, or a key in an ssh-agent.

use std::path::Path;

/// Returns the warning about an identity that is a public key alone; none if an ssh-agent holds its
/// private half, or the file is a private key. OpenSSH takes a public key as `IdentityFile` and asks the
/// agent for that key only.
pub fn no_private_half(identity: &Path) -> Option<String> {
    let text = std::fs::read_to_string(identity).ok();
    let blob = match &text {
        Some(text) if text.contains("PRIVATE KEY") => return None,
        Some(text) => text.split_whitespace().nth(1).filter(|blob| blob.starts_with("AAAA"))?.to_owned(),
        None if identity.extension().is_some_and(|extension| extension == "pub") => String::new(),
        None => return None,
    };
    let agent =
        std::process::Command::new("ssh-add").arg("-L").stdin(std::process::Stdio::null()).output().ok();
    let held = agent.is_some_and(|agent| {
        !blob.is_empty() && String::from_utf8_lossy(&agent.stdout).split_whitespace().any(|word| word == blob)
    });
    if held {
        return None;
    }
    Some(format!(
        "the lease has the key {}, and no private half of it was found: none beside it, and none in an ssh-agent; \
         add it to the agent (ssh-add), or name it with --identity",
        identity.display()
    ))
}
