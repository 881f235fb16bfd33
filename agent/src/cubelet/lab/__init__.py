"""The lab: a Kubernetes-shaped cluster in network namespaces of one Linux machine.

Nodes are namespaces that run the real agent, pods are namespaces attached by the real CNI plugin,
and a small stand-in for the kubelet and the API server keeps the objects in a folder of manifests.

This module, `podserver` and `sctp` import only the standard library, because a pod's process
imports only them.
"""
