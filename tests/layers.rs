//! Imports go down: a file uses only layers below its own, there are no import cycles, neither between files nor between folders
//! that are beside each other, and the kinds of objects do not import each other.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{
    Attribute, Item, UseTree,
    buffer::{Cursor, TokenBuffer},
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

/// The kinds of objects, each in its folder. Whatever the layers are, no kind uses another one, not even in tests: what several need
/// is in the layers below all of them.
const KINDS: &[&str] = &["cluster", "user"];

type Module = String;

#[derive(Default)]
struct File {
    path: PathBuf,
    /// Names that the module re-exports, and their targets.
    exports: BTreeMap<String, Vec<String>>,
    /// Paths that its code uses.
    uses: BTreeSet<Vec<String>>,
}

/// Which files, and which code in them, are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// What is compiled into the program.
    Code,
    /// The same and the tests beside it.
    CodeAndTests,
}

/// Collects the paths that one file uses.
struct Paths<'a> {
    module: &'a [String],
    scope: Scope,
    file: File,
}

fn has_cfg_test(attributes: &[Attribute]) -> bool {
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
        // What is exported is used as well, unless it is a part of the module itself.
        if !is_public || !path.starts_with(self.module) {
            self.file.uses.insert(path.clone());
        }
        if is_public {
            self.file.exports.insert(alias.to_owned(), path);
        }
    }

    fn is_skipped(&self, attributes: &[Attribute]) -> bool {
        self.scope == Scope::Code && has_cfg_test(attributes)
    }
}

/// The paths from the crate's root in the tokens of a macro.
fn paths_in(mut tokens: Cursor) -> Vec<Vec<String>> {
    let mut found = vec![];
    while !tokens.eof() {
        if let Some((inside, .., rest)) = tokens.any_group() {
            found.extend(paths_in(inside));
            tokens = rest;
        } else if let Some((ident, rest)) = tokens.ident() {
            tokens = rest;
            if ident == "crate" {
                let mut path = vec![ident.to_string()];
                while let Some((part, rest)) = part_after(tokens) {
                    path.push(part);
                    tokens = rest;
                }
                found.push(path);
            }
        } else {
            tokens = tokens.token_tree().map_or(Cursor::empty(), |(_, rest)| rest);
        }
    }
    found
}

/// The next part of a path: two colons and a name.
fn part_after(tokens: Cursor) -> Option<(String, Cursor)> {
    let (first, rest) = tokens.punct()?;
    let (second, rest) = rest.punct()?;
    let (name, rest) = rest.ident()?;
    (first.as_char() == ':' && second.as_char() == ':').then(|| (name.to_string(), rest))
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Mod(module) if self.is_skipped(&module.attrs) => {}
            Item::Fn(function) if self.is_skipped(&function.attrs) => {}
            Item::Use(import) if self.is_skipped(&import.attrs) => {}
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

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let tokens = TokenBuffer::new2(call.tokens.clone());
        let paths = paths_in(tokens.begin()).into_iter().filter(|path| path.len() > 1);
        let paths: Vec<_> = paths.filter_map(|path| self.absolute(&path)).collect();
        self.file.uses.extend(paths);
        visit::visit_macro(self, call);
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

/// What the text of a module's file uses and exports.
fn read_text(module: &[String], text: &str, scope: Scope) -> File {
    let mut paths = Paths { module, scope, file: File::default() };
    paths.visit_file(&syn::parse_file(text).unwrap());
    paths.file
}

fn read(scope: Scope) -> BTreeMap<Module, File> {
    let is_code = |path: &PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let is_fixture = name == "fixtures" || path.iter().any(|part| part == "fixtures");
        !(name == "tests" || is_fixture || name.ends_with("_tests"))
    };
    let read = |path: PathBuf| {
        let module = module_of(&path);
        let file = read_text(&module, &fs::read_to_string(&path).unwrap(), scope);
        (module.join("::"), File { path, ..file })
    };
    let files = sources(Path::new("src")).into_iter().filter(|path| path != Path::new("src/main.rs"));
    files.filter(|path| scope == Scope::CodeAndTests || is_code(path)).map(read).collect()
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
    let files = read(Scope::Code);
    assert!(files.len() > 100, "only {} files were found", files.len());
    let without: Vec<_> = files.keys().filter(|module| !module.is_empty() && layer_of(module).is_none()).collect();
    assert!(without.is_empty(), "add these to the table of layers: {without:?}");
    let is_used = |prefix: &&str| files.keys().any(|module| layer_of(module).is_some_and(|(_, by)| by == *prefix));
    let unused: Vec<_> = LAYERS.iter().flat_map(|prefixes| prefixes.iter()).filter(|prefix| !is_used(prefix)).collect();
    assert!(unused.is_empty(), "remove these from the table of layers: {unused:?}");
}

#[test]
fn imports_go_down() {
    let files = read(Scope::Code);
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

/// The kind that a module is a part of.
fn kind_of(module: &str) -> Option<&str> {
    module.split("::").next().filter(|first| KINDS.contains(first))
}

/// The imports of one kind by another.
fn between_kinds(needs: &BTreeMap<&Module, BTreeSet<Module>>) -> Vec<String> {
    let is_other = |module: &str, other: &str| kind_of(module).zip(kind_of(other)).is_some_and(|(own, other)| own != other);
    let others = |(module, needed): (&&Module, &BTreeSet<Module>)| {
        needed.iter().filter(|other| is_other(module, other)).map(|other| format!("{module} uses {other}")).collect::<Vec<_>>()
    };
    needs.iter().flat_map(others).collect()
}

#[test]
fn kinds_do_not_import_each_other() {
    let files = read(Scope::CodeAndTests);
    let missing: Vec<_> = KINDS.iter().filter(|kind| !files.contains_key(**kind)).collect();
    assert!(missing.is_empty(), "these no longer exist: {missing:?}");
    let wrong = between_kinds(&needs(&files));
    assert!(wrong.is_empty(), "move what several kinds need to a lower layer:\n{}", wrong.join("\n"));
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
    let files = read(Scope::Code);
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

/// The modules with these texts.
fn modules(texts: &[(&str, &str)]) -> BTreeMap<Module, File> {
    let module = |(module, text): &(&str, &str)| {
        let parts: Vec<_> = module.split("::").map(str::to_owned).collect();
        ((*module).to_owned(), read_text(&parts, text, Scope::CodeAndTests))
    };
    texts.iter().map(module).collect()
}

#[test]
fn imports_between_kinds_are_found() {
    let files = modules(&[
        ("cluster", ""),
        ("cluster::validate", "use crate::names::Names; pub fn validate() {}"),
        ("cluster::plan", "use super::validate::validate;"),
        ("user::act", "use crate::{cluster::validate::validate, names::Names};"),
        ("user::plan", "#[cfg(test)] mod tests { use crate::cluster::fixtures::World; }"),
        ("names", "pub struct Names;"),
    ]);
    assert_eq!(between_kinds(&needs(&files)), ["user::act uses cluster::validate", "user::plan uses cluster"]);
}

#[test]
fn exports_are_imports() {
    let files = modules(&[
        ("pki", "pub use key::Key; pub(crate) use crate::cluster::plan::Plan;"),
        ("pki::key", "pub struct Key;"),
        ("api", "use crate::pki::{Key, Plan};"),
        ("cluster::plan", "pub struct Plan;"),
    ]);
    let needs = needs(&files);
    let of = |module: &str| needs[&module.to_owned()].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(of("pki"), ["cluster::plan"]);
    assert_eq!(of("api"), ["cluster::plan", "pki::key"]);
}

#[test]
fn paths_in_macros_are_imports() {
    let files = modules(&[
        ("pki", "fn limit() { assert!([1, crate::cluster::plan::limit()].len() > 1, \"crate::user is only a text\"); }"),
        ("api", "macro_rules! define { ($name:ident) => { impl $crate::names::Named for $name {} } }"),
        ("names", "pub trait Named {}"),
        ("cluster::plan", "pub fn limit() -> u8 { 2 }"),
        ("user", ""),
    ]);
    let needs = needs(&files);
    let of = |module: &str| needs[&module.to_owned()].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!((of("pki"), of("api")), (vec!["cluster::plan"], vec!["names"]));
}
