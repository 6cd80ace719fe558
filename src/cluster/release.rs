//! Which etcd a member runs. Pure.

use kube::core::ObjectMeta;

use crate::{
    api::{EtcdClusterSpec, ImageSpec},
    cluster::settings::Settings,
    etcd::Version,
    kubernetes::ownership::annotation,
    names::annotation as key,
};

/// A version of etcd and the image that contains it. Members have different ones while the version of a cluster is being changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Release {
    /// The version.
    pub version: Version,
    /// The image, with tag or digest.
    pub image: String,
    /// The minor version for which a member that runs this release is restarted once, so that it writes a snapshot of raft's log.
    pub prepares: Option<u32>,
    /// The fields of the spec from which it follows.
    settings: Settings,
}

impl Release {
    /// The release of a spec with this version.
    pub fn of(spec: &EtcdClusterSpec, version: Version) -> Self {
        let ImageSpec { repository, tag, digest, .. } = &spec.image;
        let settings = Settings::of(spec).release();
        Self { version, image: image(repository, tag.as_deref(), digest.as_deref(), version), prepares: None, settings }
    }

    /// The release that a pod or a template has.
    pub fn recorded(meta: &ObjectMeta) -> Option<Self> {
        let settings = Settings::parse(annotation(meta, key::SETTINGS)?)?;
        let version = Version::parse(settings.get("version")?)?;
        let image = image(settings.get("image.repository")?, settings.get("image.tag"), settings.get("image.digest"), version);
        let prepares = annotation(meta, key::PREPARED_FOR).and_then(|minor| minor.parse().ok());
        Some(Self { version, image, prepares, settings: settings.release() })
    }

    /// The release of a pod that an older operator created: its image, and the version that its member reports.
    pub fn running(image: &str, version: Version) -> Option<Self> {
        let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
        let (repository, tag) = name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'))?;
        let mut spec = EtcdClusterSpec { version: version.to_string(), ..EtcdClusterSpec::default() };
        spec.image.repository = repository.to_owned();
        spec.image.tag = Some(tag.to_owned()).filter(|tag| *tag != format!("v{version}"));
        spec.image.digest = digest.map(str::to_owned);
        Some(Self::of(&spec, version))
    }

    /// Settings of a cluster, as they are recorded on a pod with this release.
    pub fn recorded_with(&self, settings: &Settings) -> String {
        settings.with_release(&self.settings).text()
    }
}

fn image(repository: &str, tag: Option<&str>, digest: Option<&str>, version: Version) -> String {
    let tag = tag.map_or_else(|| format!("v{version}"), str::to_owned);
    match digest {
        Some(digest) => format!("{repository}:{tag}@{digest}"),
        None => format!("{repository}:{tag}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_read_back_from_the_settings_and_from_the_image_of_a_pod() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (repository, tag, digest) in [
            ("gcr.io/etcd-development/etcd", None, None),
            ("registry.example.com:5000/etcd", Some("own"), None),
            ("[::1]:5000/a/etcd", None, Some(digest)),
        ] {
            let mut spec = EtcdClusterSpec::default();
            spec.image = ImageSpec { repository: repository.into(), tag: tag.map(str::to_owned), digest, ..spec.image };
            let version = Version::parse(&spec.version).unwrap();
            let release = Release::of(&spec, version);
            let annotations = [(key::SETTINGS.to_owned(), Settings::of(&spec).text())].into();
            let meta = ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() };
            assert_eq!(Release::recorded(&meta).as_ref(), Some(&release));
            assert_eq!(Release::running(&release.image, version), Some(release));
        }
    }
}
