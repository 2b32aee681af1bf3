"""Magnetic resonance imaging: fastMRI's files, batches of observations, and k-space simulated from magnitude images."""

from invertible.data.mri.batches import MRIBatch, ShapeBatchSampler, collate, set_epoch, slice_loader
from invertible.data.mri.coils import coil_sensitivities, random_phase
from invertible.data.mri.folder import VolumeFolder
from invertible.data.mri.selection import Selection
from invertible.data.mri.simulated_set import SimulatedFile, simulate_dataset
from invertible.data.mri.simulation import SimulatedVolume, Simulation, simulate
from invertible.data.mri.slices import MaskFunction, MRISlice, SliceDataset
from invertible.data.mri.volume_file import VolumeHeader, read_header
from invertible.data.mri.volumes import Shipped, Volume, load_volume, volumes
from invertible.data.mri.writing import write_reconstructions, write_volume

__all__ = [
    "MRIBatch",
    "MRISlice",
    "MaskFunction",
    "Selection",
    "ShapeBatchSampler",
    "Shipped",
    "SimulatedFile",
    "SimulatedVolume",
    "Simulation",
    "SliceDataset",
    "Volume",
    "VolumeFolder",
    "VolumeHeader",
    "coil_sensitivities",
    "collate",
    "load_volume",
    "random_phase",
    "read_header",
    "set_epoch",
    "simulate",
    "simulate_dataset",
    "slice_loader",
    "volumes",
    "write_reconstructions",
    "write_volume",
]
