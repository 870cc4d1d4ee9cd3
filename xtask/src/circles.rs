//! No circle of files: within a crate no file needs one that needs it, directly or by way of others. What a module and
//! those below it need of each other is not looked at.

use crate::checks;
use orion_console::Outcome;
use std::collections::{BTreeMap, BTreeSet};

/// Sources of a crate by module: `a::b::`, and an empty name at its root.
type Sources = BTreeMap<String, String>;

/// Pairs of modules of which the first needs the second.
type Needs = BTreeSet<(String, String)>;

/// Names every need that is part of a circle, or lies between two.
pub fn check() -> Outcome {
    let mut crates: BTreeMap<String, Sources> = BTreeMap::new();
    for path in checks::files()? {
        let text = path.to_string_lossy();
        let rust = text.strip_suffix(".rs").unwrap_or_default();
        if let Some((_, file)) = ["src/", "tests/it/"].iter().find_map(|root| rust.split_once(root)) {
            let root = rust.trim_end_matches(file).to_owned();
            let words = file.split('/').filter(|word| !["mod", "lib", "main"].contains(word));
            let module = words.map(|word| format!("{word}::")).collect();
            crates.entry(root).or_default().insert(module, checks::read(&path)?);
        }
    }
    let said = |root: &str, (one, other)| format!("{root}: in a circle, {one} needs {other}");
    let all = crates.iter().flat_map(|(root, sources)| circles(sources).into_iter().map(|it| said(root, it)));
    checks::all_or_nothing(&all.collect::<Vec<_>>())
}

/// The needs that are left when those of what nobody needs, and of what needs nothing, are taken away again and again.
fn circles(sources: &Sources) -> Needs {
    let mut needs = Needs::new();
    for (me, path) in
        sources.iter().flat_map(|(me, source)| paths(source).into_iter().map(move |path| (me, path)))
    {
        let mut at = me.clone();
        for word in path.split("::") {
            match word {
                "crate" => at.clear(),
                "super" => at.truncate(at.trim_end_matches(':').rfind(':').map_or(0, |end| end + 1)),
                word if sources.contains_key(&format!("{at}{word}::")) => at += &format!("{word}::"),
                _ => break,
            }
        }
        if !at.starts_with(me) && !me.starts_with(&at) {
            needs.insert((me.clone(), at));
        }
    }
    loop {
        let (ones, others): (BTreeSet<_>, BTreeSet<_>) = needs.iter().cloned().unzip();
        let before = needs.len();
        needs.retain(|(one, other)| others.contains(one) && ones.contains(other));
        if needs.len() == before {
            return needs;
        }
    }
}

/// The paths of a source that begin with `crate` or `super`, those in the braces of a `use` in full.
fn paths(source: &str) -> Vec<String> {
    let (mut found, mut open, mut path) = (Vec::new(), Vec::new(), String::new());
    let code = source.lines().map(|line| line.split("//").next().unwrap_or_default());
    for c in code.flat_map(|line| line.chars().chain(['\n'])) {
        if c == '{' {
            open.push(path.clone());
        } else if c.is_alphanumeric() || ":_*".contains(c) {
            path.push(c);
        } else {
            open.truncate(open.len() - usize::from(c == '}' && !open.is_empty()));
            found.push(std::mem::replace(&mut path, open.last().cloned().unwrap_or_default()));
        }
    }
    let whole = |path: &String| path.starts_with("crate::") || path.starts_with("super::");
    found.retain(|path| whole(path) && !path.ends_with(':'));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_need_each_other_are_found_and_a_module_and_those_below_it_are_not() {
        let mut sources = Sources::from([
            ("a::".into(), "use crate::{b::{self, One}, d::Two}; // crate::c::X".into()),
            ("b::".into(), "mod e;\nuse e::Three;\nfn four() { super::c::five() }".into()),
            ("b::e::".into(), "use super::One;".into()),
            ("c::".into(), "pub(crate) fn five() -> crate::a::Six { \"{\" }".into()),
            ("d::".into(), "use super::c::*;".into()),
            ("f::".into(), "use super::c::five;".into()),
        ]);
        let found = [("a::", "b::"), ("a::", "d::"), ("b::", "c::"), ("c::", "a::"), ("d::", "c::")];
        assert_eq!(circles(&sources), found.map(|(one, other)| (one.into(), other.into())).into());
        sources.remove("c::");
        assert_eq!(circles(&sources), Needs::new());
    }
}
