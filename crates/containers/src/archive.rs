//! Tar archives (POSIX ustar) of a few small files.

use orion_domain::container::SpecFile;

const BLOCK: usize = 512;
/// Longest name in a header.
const NAME_MAX: usize = 100;
/// Longest prefix before the name.
const PREFIX_MAX: usize = 155;

/// Returns an archive of the files for the root directory, each owned by root and readable by all: the container's user
/// need not be root. None where a path fits in no header.
pub(crate) fn of_files(files: &[SpecFile]) -> Option<Vec<u8>> {
    let mut archive = Vec::new();
    for file in files {
        let content = file.content.expose().as_bytes();
        archive.extend_from_slice(&header(file.path.in_archive(), content.len())?);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    Some(archive)
}

fn header(path: &str, length: usize) -> Option<[u8; BLOCK]> {
    let (prefix, name) = split(path)?;
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| {
        if let Some(place) = block.get_mut(at..at + text.len()) {
            place.copy_from_slice(text);
        }
    };
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{length:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    put(345, prefix.as_bytes());
    let sum: u32 = block.iter().copied().map(u32::from).sum();
    if let Some(place) = block.get_mut(148..156) {
        place.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    Some(block)
}

/// Splits a path at a slash so that both parts fit.
fn split(path: &str) -> Option<(&str, &str)> {
    if path.len() <= NAME_MAX {
        return Some(("", path));
    }
    let fits = |(at, _): &(usize, &str)| *at <= PREFIX_MAX && path.len() - at - 1 <= NAME_MAX;
    let (at, _) = path.match_indices('/').find(fits)?;
    Some((path.get(..at)?, path.get(at + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use orion_domain::Secret;
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    #[test]
    fn tar_reads_what_was_written() {
        let long = format!("/{}/{}/{}", "a".repeat(80), "b".repeat(60), "c".repeat(90));
        let file = |path: &str, content: &str| SpecFile {
            path: path.parse().unwrap(),
            content: Secret::new(content),
        };
        let files = [file("/etc/app.conf", "key=value\n"), file("/empty", ""), file(&long, &"x".repeat(513))];
        let archive = of_files(&files).unwrap();
        let mut tar = Command::new("tar")
            .args(["-tvf", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        tar.stdin.take().unwrap().write_all(&archive).unwrap();
        let listed = tar.wait_with_output().unwrap();
        assert!(listed.status.success());
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert_eq!(listed.lines().count(), 3, "{listed}");
        assert!(listed.contains(" 513 ") && listed.contains(long.trim_start_matches('/')), "{listed}");
        assert!(of_files(&[file(&format!("/{}", "d".repeat(200)), "")]).is_none(), "no header holds it");
    }
}
