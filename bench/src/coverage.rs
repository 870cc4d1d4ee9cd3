//! The share of a package's lines that its own tests run, as `cargo llvm-cov` counts it.

use crate::{
    broken::{Broken, Context as _},
    figure::{Figure, Goal, Samples},
    plan::Plan,
    progress::Progress,
};
use serde_json::Value;
use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::process::Command;

/// The way to the program and to the tools of LLVM that it needs.
const MISSING: &str = "coverage is skipped: cargo llvm-cov cannot run\n\
    hint: cargo install cargo-llvm-cov --locked, and rustup component add llvm-tools; or Debian's llvm of the version \
    that rustc -vV names, with LLVM_COV=/usr/lib/llvm-22/bin/llvm-cov and LLVM_PROFDATA=/usr/lib/llvm-22/bin/llvm-profdata";

/// A package whose coverage is a figure.
struct Package {
    figure: &'static str,
    name: &'static str,
    sources: &'static str,
    /// Arguments of the test program.
    tests: &'static [&'static str],
    note: &'static str,
}

const PACKAGES: [Package; 2] = [
    Package {
        figure: "coverage_domain",
        name: "orion-domain",
        sources: "crates/domain/src",
        tests: &[],
        note: "lines of orion-domain that its tests run",
    },
    Package {
        figure: "coverage_store",
        name: "orion-store",
        sources: "crates/store/src",
        tests: &["--skip", "mariadb"],
        note: "lines of orion-store that its tests on SQLite run",
    },
];

/// The figures of those packages that the plan names; none, with a sentence on standard error, where
/// `cargo llvm-cov` cannot run.
///
/// # Errors
/// When a package's tests fail, or the report cannot be read.
pub async fn measure(plan: &Plan) -> Result<Vec<Figure>, Broken> {
    let mut figures = Vec::new();
    if !can_run().await {
        eprintln!("{MISSING}");
        return Ok(figures);
    }
    for package in PACKAGES.iter().filter(|package| plan.names(&[package.figure])) {
        let mut progress = Progress::start(package.figure, 1);
        let report = report(package).await?;
        let root = root().canonicalize().context("the repository")?;
        let percent = percent_of(&report, &root.join(package.sources))
            .ok_or_else(|| Broken::new(format!("the report on {} names no line of it", package.name)))?;
        progress.step(&format!("{percent:.1} %"));
        let mut samples = Samples::default();
        samples.push(percent);
        figures.push(Figure {
            name: package.figure,
            unit: "%",
            samples,
            floor: None,
            goal: Goal::Shown,
            note: package.note.to_owned(),
        });
    }
    Ok(figures)
}

/// Whether there are `cargo llvm-cov` and the two tools of LLVM: named by the environment, or rustup's.
async fn can_run() -> bool {
    let mut version = cargo(&["llvm-cov", "--version"]);
    let version = version.stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    let named = ["LLVM_COV", "LLVM_PROFDATA"].iter().all(|name| env::var_os(name).is_some());
    version.is_ok_and(|status| status.success()) && (named || rustup_has_the_tools().await)
}

async fn rustup_has_the_tools() -> bool {
    let libraries = Command::new("rustc").args(["--print", "target-libdir"]).output().await;
    libraries.is_ok_and(|output| {
        let libraries = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Path::new(&libraries).with_file_name("bin").join("llvm-cov").is_file()
    })
}

/// Runs the package's tests; the report that `cargo llvm-cov` writes of them.
async fn report(package: &Package) -> Result<Value, Broken> {
    let mut command = cargo(&["llvm-cov", "--quiet", "--json", "--summary-only", "--package", package.name]);
    let output = command.arg("--").args(package.tests).stderr(Stdio::inherit()).output().await;
    let output = output.context("cargo llvm-cov")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        return Err(Broken::new(format!("the tests of {}: {}", package.name, output.status)).with_log(&said));
    }
    // The tests' own output comes first; the report is the last line.
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_default()).context("the report of cargo llvm-cov")
}

/// The covered lines of the files below `sources`, in per cent; none when the report has no line of them.
fn percent_of(report: &Value, sources: &Path) -> Option<f64> {
    let files = report["data"][0]["files"].as_array()?;
    let ours = files
        .iter()
        .filter(|file| file["filename"].as_str().is_some_and(|name| Path::new(name).starts_with(sources)));
    let (lines, covered) = ours.fold((0.0, 0.0), |(lines, covered), file| {
        let of = |what: &str| file["summary"]["lines"][what].as_f64().unwrap_or_default();
        (lines + of("count"), covered + of("covered"))
    });
    (lines > 0.0).then_some(100.0 * covered / lines)
}

fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(words).current_dir(root()).stdin(Stdio::null()).kill_on_drop(true);
    command
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file(name: &str, count: u32, covered: u32) -> Value {
        json!({ "filename": name, "summary": { "lines": { "count": count, "covered": covered } } })
    }

    #[test]
    fn only_the_lines_of_the_package_count() {
        let files =
            [file("/r/a/src/x.rs", 30, 30), file("/r/a/src/y.rs", 10, 0), file("/r/b/src/x.rs", 100, 0)];
        let report = json!({ "data": [{ "files": files }] });
        assert_eq!(percent_of(&report, Path::new("/r/a/src")), Some(75.0));
        assert_eq!(percent_of(&report, Path::new("/r/c/src")), None);
        assert_eq!(percent_of(&json!({}), Path::new("/r/a/src")), None);
    }
}
