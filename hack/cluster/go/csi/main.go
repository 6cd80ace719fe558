// A CSI driver for one node, as small as Kubernetes allows. A volume is a file with an XFS file system, which pods mount through a
// loop device, and beside it are the parameters of its StorageClass. (A mounted ext4 is expanded only with CAP_SYS_RESOURCE.)
//
//	limit: "1500000000"   no volume is expanded beyond this number of bytes
//	online: "false"       the file system is expanded only when a pod starts
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

type driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer
	registration.UnimplementedRegistrationServer
	name, node, socket, volumes string
}

func main() {
	d := &driver{}
	flag.StringVar(&d.name, "name", "", "name of the driver")
	flag.StringVar(&d.node, "node", "", "name of the node")
	flag.StringVar(&d.socket, "socket", "", "socket in the kubelet's folder plugins_registry")
	flag.StringVar(&d.volumes, "volumes", "", "folder of the volumes")
	flag.Parse()
	if err := remove(d.socket); err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", d.socket)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(logged))
	csi.RegisterIdentityServer(server, d)
	csi.RegisterControllerServer(server, d)
	csi.RegisterNodeServer(server, d)
	registration.RegisterRegistrationServer(server, d)
	log.Fatal(server.Serve(listener))
}

func logged(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	answer, err := handler(ctx, request)
	log.Print(filepath.Base(info.FullMethod), " ", request, " -> ", answer, " ", err)
	return answer, err
}

// run returns the output of a program.
func run(name string, arguments ...string) (string, error) {
	out, err := exec.Command(name, arguments...).CombinedOutput()
	if err != nil {
		err = status.Errorf(codes.Internal, "%s %s: %v: %s", name, strings.Join(arguments, " "), err, out)
	}
	return strings.TrimSpace(string(out)), err
}

// remove removes a file or an empty folder, if it exists.
func remove(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// GetInfo and NotifyRegistrationStatus are called by the kubelet, which finds the socket in its folder.
func (d *driver) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type: registration.CSIPlugin, Name: d.name, Endpoint: d.socket, SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (d *driver) NotifyRegistrationStatus(_ context.Context, r *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if !r.PluginRegistered {
		log.Fatal("not registered: ", r.Error)
	}
	return &registration.RegistrationStatusResponse{}, nil
}

func (d *driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: d.name, VendorVersion: "1"}, nil
}

func (d *driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}

func (d *driver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{
		{Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{
			Type: csi.PluginCapability_Service_CONTROLLER_SERVICE,
		}}},
		{Type: &csi.PluginCapability_VolumeExpansion_{VolumeExpansion: &csi.PluginCapability_VolumeExpansion{
			Type: csi.PluginCapability_VolumeExpansion_ONLINE,
		}}},
	}}, nil
}

func (d *driver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	capability := func(kind csi.ControllerServiceCapability_RPC_Type) *csi.ControllerServiceCapability {
		rpc := &csi.ControllerServiceCapability_RPC{Type: kind}
		return &csi.ControllerServiceCapability{Type: &csi.ControllerServiceCapability_Rpc{Rpc: rpc}}
	}
	return &csi.ControllerGetCapabilitiesResponse{Capabilities: []*csi.ControllerServiceCapability{
		capability(csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME),
		capability(csi.ControllerServiceCapability_RPC_EXPAND_VOLUME),
	}}, nil
}

func (d *driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	rpc := &csi.NodeServiceCapability_RPC{Type: csi.NodeServiceCapability_RPC_EXPAND_VOLUME}
	return &csi.NodeGetCapabilitiesResponse{Capabilities: []*csi.NodeServiceCapability{
		{Type: &csi.NodeServiceCapability_Rpc{Rpc: rpc}},
	}}, nil
}

func (d *driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.node}, nil
}

func (d *driver) image(id string) string { return filepath.Join(d.volumes, id+".xfs") }

// recorded is the file with the parameters of a volume's class.
func (d *driver) recorded(id string) string { return filepath.Join(d.volumes, id+".json") }

func (d *driver) parameter(id, key string) (string, error) {
	var all map[string]string
	text, err := os.ReadFile(d.recorded(id))
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	return all[key], err
}

// resize sets the size of a volume's file, which has holes, so it takes no space.
func (d *driver) resize(id string, size int64) error {
	file, err := os.OpenFile(d.image(id), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	return file.Truncate(size)
}

func (d *driver) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	id, size := r.Name, r.CapacityRange.GetRequiredBytes()
	answer := &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: id, CapacityBytes: size}}
	// The parameters are written last.
	if _, err := os.Stat(d.recorded(id)); err == nil {
		return answer, nil
	}
	if err := d.resize(id, size); err != nil {
		return nil, err
	}
	if _, err := run("mkfs.xfs", "-q", "-f", d.image(id)); err != nil {
		return nil, err
	}
	text, err := json.Marshal(r.Parameters)
	if err != nil {
		return nil, err
	}
	return answer, os.WriteFile(d.recorded(id), text, 0o600)
}

func (d *driver) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	for _, file := range []string{d.image(r.VolumeId), d.recorded(r.VolumeId)} {
		if err := remove(file); err != nil {
			return nil, err
		}
	}
	return &csi.DeleteVolumeResponse{}, nil
}

func (d *driver) ControllerExpandVolume(_ context.Context, r *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	size := r.CapacityRange.GetRequiredBytes()
	text, err := d.parameter(r.VolumeId, "limit")
	if err != nil {
		return nil, err
	}
	if limit, err := strconv.ParseInt(text, 10, 64); err == nil && size > limit {
		return nil, status.Errorf(codes.OutOfRange, "a volume of this class has at most %d bytes, not %d", limit, size)
	}
	if err := d.resize(r.VolumeId, size); err != nil {
		return nil, err
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: size, NodeExpansionRequired: true}, nil
}

func device(path string) (string, error) {
	return run("findmnt", "--noheadings", "--output", "SOURCE", "--mountpoint", path)
}

// grow expands a mounted file system to the size of its file.
func grow(path string) error {
	device, err := device(path)
	if err != nil {
		return err
	}
	if _, err := run("losetup", "--set-capacity", device); err != nil {
		return err
	}
	_, err = run("xfs_growfs", "-d", path)
	return err
}

func (d *driver) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if err := os.MkdirAll(r.TargetPath, 0o755); err != nil {
		return nil, err
	}
	if _, err := run("mountpoint", "--quiet", r.TargetPath); err != nil {
		// If another pod has mounted the volume, its loop device is used again.
		if _, err := run("mount", "-o", "loop", d.image(r.VolumeId), r.TargetPath); err != nil {
			return nil, err
		}
	}
	return &csi.NodePublishVolumeResponse{}, grow(r.TargetPath)
}

func (d *driver) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if _, err := run("mountpoint", "--quiet", r.TargetPath); err == nil {
		if _, err := run("umount", r.TargetPath); err != nil {
			return nil, err
		}
	}
	return &csi.NodeUnpublishVolumeResponse{}, remove(r.TargetPath)
}

// NodeExpandVolume is called while a pod uses the volume, and when one starts, after NodePublishVolume.
func (d *driver) NodeExpandVolume(_ context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	size := r.CapacityRange.GetRequiredBytes()
	answer := &csi.NodeExpandVolumeResponse{CapacityBytes: size}
	online, err := d.parameter(r.VolumeId, "online")
	if err != nil {
		return nil, err
	}
	if online != "false" {
		return answer, grow(r.VolumePath)
	}
	device, err := device(r.VolumePath)
	if err != nil {
		return nil, err
	}
	now, err := run("blockdev", "--getsize64", device)
	if err != nil {
		return nil, err
	}
	if bytes, err := strconv.ParseInt(now, 10, 64); err != nil || bytes < size {
		return nil, status.Error(codes.FailedPrecondition, "the file system is expanded when a pod starts, and not while one uses it")
	}
	return answer, nil
}
