//! Pure code uses no client, no runtime and no clock; and no file is too long to be read at once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Files and folders with pure code: decisions without input and output.
const PURE: [&str; 37] = [
    "src/api",
    "src/backoff.rs",
    "src/certificates",
    "src/cluster/facts",
    "src/cluster/leaves.rs",
    "src/cluster/maintained.rs",
    "src/cluster/objects",
    "src/cluster/observed.rs",
    "src/cluster/outcome.rs",
    "src/cluster/plan",
    "src/cluster/release.rs",
    "src/cluster/requests.rs",
    "src/cluster/settings.rs",
    "src/cluster/status",
    "src/cluster/steps",
    "src/cluster/validate",
    "src/cluster/validate.rs",
    "src/cluster/validated.rs",
    "src/digest.rs",
    "src/etcd/version.rs",
    "src/ids.rs",
    "src/kubernetes/cached.rs",
    "src/kubernetes/covers.rs",
    "src/kubernetes/desired.rs",
    "src/kubernetes/object.rs",
    "src/kubernetes/ownership.rs",
    "src/kubernetes/pod.rs",
    "src/kubernetes/quantity.rs",
    "src/kubernetes/resources.rs",
    "src/member_pod.rs",
    "src/names.rs",
    "src/pki",
    "src/reporting/condition.rs",
    "src/reporting/event.rs",
    "src/reporting/note.rs",
    "src/user/plan.rs",
    "src/user/status.rs",
];
/// Texts that pure code must not contain.
const FORBIDDEN: [&str; 11] = [
    "kube::Client",
    "kube::Api",
    "Api<",
    "Api::",
    "tokio",
    "async ",
    "Timestamp::now",
    "SystemTime",
    "Instant::now",
    "std::fs",
    "std::env",
];
/// The maximum number of lines of a file, without tests.
const LONGEST: usize = 500;

fn sources(under: &Path) -> Vec<PathBuf> {
    if under.is_file() {
        return vec![under.to_owned()];
    }
    let entries = fs::read_dir(under).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.flat_map(|path| sources(&path)).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "rs"));
    files
}

fn is_test(path: &Path) -> bool {
    let name = path.file_stem().unwrap().to_str().unwrap();
    name == "tests" || name == "fixtures" || name.ends_with("_tests")
}

/// The code before the tests at the end of a file, without comments.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.to_owned()));
    let lines: Vec<_> = lines.take_while(|(_, line)| line != "mod tests {").collect();
    lines.into_iter().filter(|(_, line)| !line.trim_start().starts_with("//")).collect()
}

/// The line that imports a client from kube. An import may span several lines.
fn imports_client(code: &[(usize, String)]) -> Option<usize> {
    let mut inside = false;
    for (at, line) in code {
        inside |= line.starts_with("use kube::");
        let mut words = line.split(|c: char| !c.is_alphanumeric());
        if inside && words.any(|word| word == "Client" || word == "Api") {
            return Some(*at);
        }
        inside &= !line.ends_with(';');
    }
    None
}

#[test]
fn pure_code_uses_no_client_no_runtime_and_no_clock() {
    let missing: Vec<_> = PURE.iter().filter(|path| !Path::new(path).exists()).collect();
    assert!(missing.is_empty(), "these no longer exist: {missing:?}");
    let mut found = vec![];
    for path in PURE.iter().flat_map(|path| sources(Path::new(path))).filter(|path| !is_test(path)) {
        let code = code(&path);
        for (at, line) in &code {
            let forbidden = FORBIDDEN.iter().filter(|word| line.contains(*word));
            found.extend(forbidden.map(|word| format!("{}:{at}: {word}", path.display())));
        }
        found.extend(imports_client(&code).map(|at| format!("{}:{at}: a client of kube", path.display())));
    }
    let found = found.join("\n");
    assert!(
        found.is_empty(),
        "these files must stay pure; pass values to them, or move the code to a file that is not pure:\n{found}"
    );
}

#[test]
fn no_file_is_too_long() {
    let long: Vec<_> = sources(Path::new("src"))
        .into_iter()
        .filter(|path| !is_test(path))
        .map(|path| (fs::read_to_string(&path).unwrap().lines().take_while(|line| *line != "mod tests {").count(), path))
        .filter(|(lines, _)| *lines > LONGEST)
        .map(|(lines, path)| format!("{}: {lines} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "a file may have at most {LONGEST} lines without tests; split these:\n{}", long.join("\n"));
}
