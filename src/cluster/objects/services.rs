//! The Services.

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::metadata::owned;
use crate::{
    api::ServiceType,
    cluster::validated::ValidatedCluster,
    names::{CLIENT_PORT, PEER_PORT, label},
};

// The names are those that etcd's SRV discovery looks up: _etcd-client-ssl._tcp and _etcd-server-ssl._tcp.
fn client_port() -> ServicePort {
    port("etcd-client-ssl", CLIENT_PORT)
}

fn port(name: &str, number: u16) -> ServicePort {
    let number = i32::from(number);
    ServicePort {
        name: Some(name.into()),
        port: number,
        protocol: Some("TCP".into()),
        target_port: Some(IntOrString::Int(number)),
        ..ServicePort::default()
    }
}

fn spec(cluster: &ValidatedCluster, ports: Vec<ServicePort>) -> ServiceSpec {
    ServiceSpec {
        // Both IP families in a dual-stack cluster, the only one in any other.
        ip_family_policy: Some("PreferDualStack".into()),
        ports: Some(ports),
        selector: Some(label::of_cluster(cluster.names.cluster())),
        ..ServiceSpec::default()
    }
}

/// The Service for clients. It has only ready members, and so never a learner, which refuses most requests.
pub fn client_service(cluster: &ValidatedCluster) -> Service {
    let mut metadata = owned(cluster, cluster.names.client_service());
    // Its own labels take precedence.
    let own = metadata.labels.take().unwrap_or_default();
    metadata.labels = Some(cluster.service.labels.clone().into_iter().chain(own).collect());
    metadata.annotations = Some(cluster.service.annotations.clone()).filter(|annotations| !annotations.is_empty());
    let type_ = match cluster.service.type_ {
        ServiceType::ClusterIP => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    };
    let spec = ServiceSpec {
        type_: Some(type_.into()),
        load_balancer_class: cluster.service.load_balancer_class.clone(),
        ..spec(cluster, vec![client_port()])
    };
    Service { metadata, spec: Some(spec), status: None }
}

/// The headless Service, which gives every member a name of its own. Members need each other's names before they are ready.
pub fn peer_service(cluster: &ValidatedCluster) -> Service {
    let spec = ServiceSpec {
        cluster_ip: Some("None".into()),
        publish_not_ready_addresses: Some(true),
        ..spec(cluster, vec![port("etcd-server-ssl", PEER_PORT), client_port()])
    };
    Service { metadata: owned(cluster, cluster.names.peer_service()), spec: Some(spec), status: None }
}
