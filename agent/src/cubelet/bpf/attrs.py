"""The parts of `union bpf_attr` and of the info structures (linux/bpf.h) that this layer uses.

Pointers are 64-bit integers, as the kernel declares them. A kernel accepts a structure that is
longer than its own as long as the bytes beyond its own are zero.
"""

from __future__ import annotations

import ctypes
from ctypes import c_char, c_uint8, c_uint32, c_uint64

from cubelet.bpf.constants import BPF_OBJ_NAME_LEN

_Name = c_char * BPF_OBJ_NAME_LEN


class MapCreate(ctypes.Structure):
    """`BPF_MAP_CREATE`."""

    _fields_ = (
        ("map_type", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("map_flags", c_uint32),
        ("inner_map_fd", c_uint32),
        ("numa_node", c_uint32),
        ("map_name", _Name),
    )


class MapElement(ctypes.Structure):
    """`BPF_MAP_*_ELEM` and, with `value` for the next key, `BPF_MAP_GET_NEXT_KEY`."""

    _fields_ = (
        ("map_fd", c_uint32),
        ("key", c_uint64),
        ("value", c_uint64),
        ("flags", c_uint64),
    )


class MapBatch(ctypes.Structure):
    """`BPF_MAP_*_BATCH`; `count` comes back as the number of records done."""

    _fields_ = (
        ("in_batch", c_uint64),
        ("out_batch", c_uint64),
        ("keys", c_uint64),
        ("values", c_uint64),
        ("count", c_uint32),
        ("map_fd", c_uint32),
        ("elem_flags", c_uint64),
        ("flags", c_uint64),
    )


class ProgLoad(ctypes.Structure):
    """`BPF_PROG_LOAD`."""

    _fields_ = (
        ("prog_type", c_uint32),
        ("insn_cnt", c_uint32),
        ("insns", c_uint64),
        ("license", c_uint64),
        ("log_level", c_uint32),
        ("log_size", c_uint32),
        ("log_buf", c_uint64),
        ("kern_version", c_uint32),
        ("prog_flags", c_uint32),
        ("prog_name", _Name),
        ("prog_ifindex", c_uint32),
        ("expected_attach_type", c_uint32),
        ("prog_btf_fd", c_uint32),
        ("func_info_rec_size", c_uint32),
        ("func_info", c_uint64),
        ("func_info_cnt", c_uint32),
    )


class BtfLoad(ctypes.Structure):
    """`BPF_BTF_LOAD`."""

    _fields_ = (
        ("btf", c_uint64),
        ("btf_log_buf", c_uint64),
        ("btf_size", c_uint32),
        ("btf_log_size", c_uint32),
        ("btf_log_level", c_uint32),
    )


class ObjectPath(ctypes.Structure):
    """`BPF_OBJ_PIN` and `BPF_OBJ_GET`."""

    _fields_ = (
        ("pathname", c_uint64),
        ("bpf_fd", c_uint32),
        ("file_flags", c_uint32),
    )


class GetInfo(ctypes.Structure):
    """`BPF_OBJ_GET_INFO_BY_FD`."""

    _fields_ = (
        ("bpf_fd", c_uint32),
        ("info_len", c_uint32),
        ("info", c_uint64),
    )


class ProgTestRun(ctypes.Structure):
    """`BPF_PROG_TEST_RUN`; the output sizes come back as what was written."""

    _fields_ = (
        ("prog_fd", c_uint32),
        ("retval", c_uint32),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("data_in", c_uint64),
        ("data_out", c_uint64),
        ("repeat", c_uint32),
        ("duration", c_uint32),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("ctx_in", c_uint64),
        ("ctx_out", c_uint64),
    )


class LinkCreate(ctypes.Structure):
    """`BPF_LINK_CREATE` on a network device."""

    _fields_ = (
        ("prog_fd", c_uint32),
        ("target_ifindex", c_uint32),
        ("attach_type", c_uint32),
        ("flags", c_uint32),
    )


class LinkUpdate(ctypes.Structure):
    """`BPF_LINK_UPDATE`."""

    _fields_ = (
        ("link_fd", c_uint32),
        ("new_prog_fd", c_uint32),
        ("flags", c_uint32),
        ("old_prog_fd", c_uint32),
    )


class LinkDetach(ctypes.Structure):
    """`BPF_LINK_DETACH`."""

    _fields_ = (("link_fd", c_uint32),)


class MapInfoStruct(ctypes.Structure):
    """The head of `struct bpf_map_info`; the kernel fills as much as it is given room for."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("map_flags", c_uint32),
        ("name", _Name),
    )


class ProgInfoStruct(ctypes.Structure):
    """`struct bpf_prog_info` as far as `verified_insns` (Linux 5.16; zero before)."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("tag", c_uint8 * 8),
        ("jited_prog_len", c_uint32),
        ("xlated_prog_len", c_uint32),
        ("jited_prog_insns", c_uint64),
        ("xlated_prog_insns", c_uint64),
        ("load_time", c_uint64),
        ("created_by_uid", c_uint32),
        ("nr_map_ids", c_uint32),
        ("map_ids", c_uint64),
        ("name", _Name),
        ("ifindex", c_uint32),
        ("gpl_compatible", c_uint32),
        ("netns_dev", c_uint64),
        ("netns_ino", c_uint64),
        ("nr_jited_ksyms", c_uint32),
        ("nr_jited_func_lens", c_uint32),
        ("jited_ksyms", c_uint64),
        ("jited_func_lens", c_uint64),
        ("btf_id", c_uint32),
        ("func_info_rec_size", c_uint32),
        ("func_info", c_uint64),
        ("nr_func_info", c_uint32),
        ("nr_line_info", c_uint32),
        ("line_info", c_uint64),
        ("jited_line_info", c_uint64),
        ("nr_jited_line_info", c_uint32),
        ("line_info_rec_size", c_uint32),
        ("jited_line_info_rec_size", c_uint32),
        ("nr_prog_tags", c_uint32),
        ("prog_tags", c_uint64),
        ("run_time_ns", c_uint64),
        ("run_cnt", c_uint64),
        ("recursion_misses", c_uint64),
        ("verified_insns", c_uint32),
    )


class TcxLinkInfoStruct(ctypes.Structure):
    """`struct bpf_link_info` with the `tcx` arm of its union, which starts 8-byte aligned.

    The `xdp` arm consists of `ifindex` alone.
    """

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("prog_id", c_uint32),
        ("_alignment", c_uint32),
        ("ifindex", c_uint32),
        ("attach_type", c_uint32),
    )
