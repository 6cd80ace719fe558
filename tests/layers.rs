//! Imports go down: a file uses only layers below its own, and there are no import cycles, neither between files nor between folders
//! that are beside each other.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{
    Attribute, Item, UseTree,
    visit::{self, Visit},
};

/// The layers from the lowest to the highest. A module belongs to the longest prefix of its path; modules of one layer do not use each
/// other unless they share that prefix.
const LAYERS: &[&[&str]] = &[
    &["digest", "ids", "backoff", "panics", "slots", "telemetry", "host"],
    &["pki", "etcd"],
    &["api"],
    &["names"],
    &["kubernetes"],
    &["member_pod"],
    &["certificates"],
    &["reporting::note"],
    &["reporting::event"],
    &["reporting::condition"],
    &["metrics", "identity", "cache"],
    &["http", "context"],
    &["leader"],
    &["reporting", "issuing"],
    &["cluster::requests", "cluster::settings"],
    &["cluster::release"],
    &["cluster::validated"],
    &["cluster::observed", "cluster::leaves", "cluster::objects"],
    &["cluster::validate"],
    &["cluster::specs", "cluster::facts"],
    &["cluster::maintained"],
    &["cluster::steps"],
    &["cluster::plan"],
    &["cluster::outcome", "cluster::dial"],
    &["cluster::observe", "cluster::act", "cluster::status"],
    &["cluster", "user"],
    &["controllers"],
];

type Module = String;

#[derive(Default)]
struct File {
    path: PathBuf,
    /// Names that the module re-exports, and their targets.
    exports: BTreeMap<String, Vec<String>>,
    /// Paths that its code uses.
    uses: BTreeSet<Vec<String>>,
}

/// Collects the paths that one file uses. Code that is compiled only for tests does not count.
struct Paths<'a> {
    module: &'a [String],
    file: File,
}

fn is_test(attributes: &[Attribute]) -> bool {
    let is_cfg_test = |attribute: &Attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(|argument| argument == "test")
    };
    attributes.iter().any(is_cfg_test)
}

impl Paths<'_> {
    /// The path from the crate's root; `None` if it leaves the crate.
    fn absolute(&self, path: &[String]) -> Option<Vec<String>> {
        let mut module = self.module.to_vec();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => {
                module.clear();
                rest = &path[1..];
            }
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|part| part == "super") {
                    module.pop();
                    rest = &rest[1..];
                }
            }
            _ => return None,
        }
        Some(module.into_iter().chain(rest.iter().cloned()).collect())
    }

    fn add_tree(&mut self, prefix: &[String], tree: &UseTree, is_public: bool) {
        match tree {
            UseTree::Path(path) => {
                let prefix: Vec<_> = prefix.iter().cloned().chain([path.ident.to_string()]).collect();
                self.add_tree(&prefix, &path.tree, is_public);
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_tree(prefix, tree, is_public)),
            UseTree::Name(name) => self.add_use(prefix, &name.ident.to_string(), &name.ident.to_string(), is_public),
            UseTree::Rename(name) => self.add_use(prefix, &name.ident.to_string(), &name.rename.to_string(), is_public),
            UseTree::Glob(_) => self.add_use(prefix, "*", "*", is_public),
        }
    }

    fn add_use(&mut self, prefix: &[String], name: &str, alias: &str, is_public: bool) {
        let path: Vec<_> = prefix.iter().cloned().chain((name != "self").then(|| name.to_owned())).collect();
        // In a module's file a path may begin with one of its own modules.
        let own: Vec<_> = ["self".to_owned()].into_iter().chain(path.iter().cloned()).collect();
        let begins_here = !["crate", "self", "super"].contains(&path[0].as_str());
        let Some(path) = self.absolute(if is_public && begins_here { &own } else { &path }) else { return };
        if is_public {
            self.file.exports.insert(alias.to_owned(), path);
        } else {
            self.file.uses.insert(path);
        }
    }
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Mod(module) if is_test(&module.attrs) => {}
            Item::Fn(function) if is_test(&function.attrs) => {}
            Item::Use(import) if is_test(&import.attrs) => {}
            Item::Use(import) => {
                let is_public = !matches!(import.vis, syn::Visibility::Inherited);
                self.add_tree(&[], &import.tree, is_public);
            }
            other => visit::visit_item(self, other),
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if path.leading_colon.is_none()
            && let Some(path) = self.absolute(&parts)
            && parts.len() > 1
        {
            self.file.uses.insert(path);
        }
        visit::visit_path(self, path);
    }
}

fn sources(under: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(under).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "rs"));
    files.sort();
    files
}

fn module_of(path: &Path) -> Vec<String> {
    let inside = path.strip_prefix("src").unwrap().with_extension("");
    let mut module: Vec<_> = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if module.last().is_some_and(|last| last == "mod" || last == "lib") {
        module.pop();
    }
    module
}

fn read() -> BTreeMap<Module, File> {
    let is_code = |path: &PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let is_fixture = path.iter().any(|part| part == "fixtures");
        !(name == "main" || name == "tests" || is_fixture || name.ends_with("_tests"))
    };
    let read = |path: PathBuf| {
        let module = module_of(&path);
        let syntax = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
        let mut paths = Paths { module: &module, file: File { path, ..File::default() } };
        paths.visit_file(&syntax);
        (module.join("::"), paths.file)
    };
    sources(Path::new("src")).into_iter().filter(is_code).map(read).collect()
}

/// The module in whose file a path is defined.
fn defined_in(files: &BTreeMap<Module, File>, path: &[String]) -> Option<Module> {
    let longest = (0..=path.len()).rev().find(|parts| files.contains_key(&path[..*parts].join("::")))?;
    let module = path[..longest].join("::");
    let Some(name) = path.get(longest) else { return Some(module) };
    match files[&module].exports.get(name) {
        Some(target) if target != path => {
            let rest = &path[longest + 1..];
            defined_in(files, &target.iter().chain(rest).cloned().collect::<Vec<_>>())
        }
        _ => Some(module),
    }
}

/// The modules that each file uses.
fn needs(files: &BTreeMap<Module, File>) -> BTreeMap<&Module, BTreeSet<Module>> {
    let needed = |(module, file): (_, &File)| {
        let mut needed: BTreeSet<_> = file.uses.iter().filter_map(|path| defined_in(files, path)).collect();
        needed.remove(module);
        (module, needed)
    };
    files.iter().map(needed).collect()
}

/// The layer of a module, and the prefix in the table that assigns it to that layer.
fn layer_of(module: &str) -> Option<(usize, &'static str)> {
    let belongs = |prefix: &str| module == prefix || module.starts_with(&format!("{prefix}::"));
    let all = LAYERS.iter().enumerate().flat_map(|(layer, prefixes)| prefixes.iter().map(move |prefix| (layer, *prefix)));
    all.filter(|(_, prefix)| belongs(prefix)).max_by_key(|(_, prefix)| prefix.len())
}

#[test]
fn every_module_has_a_layer() {
    let files = read();
    assert!(files.len() > 100, "only {} files were found", files.len());
    let without: Vec<_> = files.keys().filter(|module| !module.is_empty() && layer_of(module).is_none()).collect();
    assert!(without.is_empty(), "add these to the table of layers: {without:?}");
    let is_used = |prefix: &&str| files.keys().any(|module| layer_of(module).is_some_and(|(_, by)| by == *prefix));
    let unused: Vec<_> = LAYERS.iter().flat_map(|prefixes| prefixes.iter()).filter(|prefix| !is_used(prefix)).collect();
    assert!(unused.is_empty(), "remove these from the table of layers: {unused:?}");
}

#[test]
fn imports_go_down() {
    let files = read();
    let mut wrong = vec![];
    for (module, needed) in needs(&files) {
        let Some((layer, prefix)) = layer_of(module) else { continue };
        for other in needed {
            let Some((other_layer, other_prefix)) = layer_of(&other) else { continue };
            if other_prefix != prefix && other_layer >= layer {
                wrong.push(format!("{} uses {other}", files[module].path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "these imports do not go down:\n{}", wrong.join("\n"));
}

/// What is left of these dependencies when everything that is in no cycle is removed: a module that uses no other one, or that no
/// other one uses.
fn cycles(mut needs: BTreeMap<Module, BTreeSet<Module>>) -> BTreeMap<Module, BTreeSet<Module>> {
    loop {
        let before = needs.len();
        let left: BTreeSet<_> = needs.keys().cloned().collect();
        for needed in needs.values_mut() {
            needed.retain(|other| left.contains(other));
        }
        needs.retain(|_, needed| !needed.is_empty());
        let needed: BTreeSet<_> = needs.values().flatten().cloned().collect();
        needs.retain(|module, _| needed.contains(module));
        if needs.len() == before {
            return needs;
        }
    }
}

/// The part of a folder that a module belongs to, as seen from that folder: a file, a folder in it with everything below, or the
/// folder's own `mod.rs`. `None` if the module is elsewhere.
fn part_of(folder: &str, module: &str) -> Option<Module> {
    if module == folder {
        return Some(folder.to_owned());
    }
    let rest = if folder.is_empty() { module } else { module.strip_prefix(folder)?.strip_prefix("::")? };
    let first = rest.split("::").next()?;
    Some(if folder.is_empty() { first.to_owned() } else { format!("{folder}::{first}") })
}

/// The modules that have others below them, and the root.
fn folders(needs: &BTreeMap<&Module, BTreeSet<Module>>) -> BTreeSet<Module> {
    let parents = |module: &Module| {
        let parts: Vec<_> = module.split("::").map(str::to_owned).collect();
        (0..parts.len()).map(move |count| parts[..count].join("::")).collect::<Vec<_>>()
    };
    needs.keys().copied().flat_map(parents).collect()
}

/// The dependencies between folders that have the same parent. A folder and the files in it are one room: what is inside may use the
/// files beside the folder, as `pki::acceptance` uses `pki::certificate`, and a file beside it may use the folder, as `pki::external`
/// does. That is no cycle as long as the files are in none (see [`cycles`]). Two folders beside each other must not need each other, not
/// even by way of different files.
fn needs_of_folders(needs: &BTreeMap<&Module, BTreeSet<Module>>, parent: &str) -> BTreeMap<Module, BTreeSet<Module>> {
    let all = folders(needs);
    let folder = |module: &Module| part_of(parent, module).filter(|part| part != parent && all.contains(part));
    let mut found: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for (module, needed) in needs {
        let Some(from) = folder(module) else { continue };
        let others = needed.iter().filter_map(folder).filter(|to| *to != from);
        found.entry(from.clone()).or_default().extend(others);
    }
    found
}

fn describe(cycles: &BTreeMap<Module, BTreeSet<Module>>) -> String {
    let lines: Vec<_> = cycles.iter().map(|(module, needed)| format!("{module} needs {needed:?}")).collect();
    lines.join("\n")
}

#[test]
fn there_are_no_import_cycles() {
    let files = read();
    let needs = needs(&files);
    let between_files = cycles(needs.iter().map(|(module, needed)| ((*module).clone(), needed.clone())).collect());
    assert!(between_files.is_empty(), "these files import each other:\n{}", describe(&between_files));
    for parent in folders(&needs) {
        let between_folders = cycles(needs_of_folders(&needs, &parent));
        assert!(between_folders.is_empty(), "these folders import each other:\n{}", describe(&between_folders));
    }
}

#[test]
fn cycles_of_folders_are_found() {
    let uses = |module: &str, needed: &[&str]| (module.to_owned(), needed.iter().map(|other| (*other).to_owned()).collect());
    let modules: BTreeMap<Module, BTreeSet<Module>> = [
        uses("pki::external", &["pki::acceptance::path"]),
        uses("pki::acceptance::path", &["pki::certificate"]),
        uses("pki::certificate", &[]),
        uses("api::one", &["pki::certificate"]),
        uses("pki::two", &["api::three"]),
        uses("api::three", &[]),
        uses("cluster::act::one", &["cluster::status::two"]),
        uses("cluster::status::three", &["cluster::act::four"]),
        uses("cluster::status::two", &[]),
        uses("cluster::act::four", &[]),
    ]
    .into();
    let needs: BTreeMap<&Module, BTreeSet<Module>> = modules.iter().map(|(module, needed)| (module, needed.clone())).collect();
    assert!(cycles(modules.clone()).is_empty(), "no file is in a cycle");
    let found = |parent: &str| cycles(needs_of_folders(&needs, parent)).into_keys().collect::<Vec<_>>();
    assert_eq!(found(""), ["api", "pki"]);
    assert_eq!(found("cluster"), ["cluster::act", "cluster::status"]);
    assert!(found("pki").is_empty(), "a folder and the files beside it are one room");
}

#[test]
fn cycles_and_upward_imports_are_found() {
    let file = |uses: &[&str], exports: &[(&str, &str)]| File {
        uses: uses.iter().map(|path| path.split("::").map(str::to_owned).collect()).collect(),
        exports: exports.iter().map(|(name, path)| ((*name).into(), path.split("::").map(str::to_owned).collect())).collect(),
        ..File::default()
    };
    let files: BTreeMap<Module, File> = [
        ("pki".to_owned(), file(&[], &[("Key", "pki::key::Key")])),
        ("pki::key".to_owned(), file(&["cluster::plan::Plan"], &[])),
        ("cluster::plan".to_owned(), file(&["pki::Key"], &[])),
    ]
    .into();
    let needs = needs(&files);
    assert_eq!(needs[&"cluster::plan".to_owned()], BTreeSet::from(["pki::key".to_owned()]));
    assert_eq!(needs[&"pki::key".to_owned()], BTreeSet::from(["cluster::plan".to_owned()]));
    assert!(layer_of("pki::key").unwrap().0 < layer_of("cluster::plan::rollout").unwrap().0);
}
