"""Floor 2: data sets on disk become one manifest, frame plans and batches.

manifest.py     the records: SampleRow (what a source yields), Sample, Manifest
scan.py         build_manifest: source -> scan of every file -> splits -> checks
disk_names.py   listed names against names on disk: accents, links, missing files
file_scan.py    every file decoded once, in threads, remembered
scan_notes.py   what the report says of files that are used all the same
sources/        one reader per layout on disk, found by name
splits.py       seeded group splits, stratified subsets, leak check (pure)
decode.py       read_frames and probe: frames by decode ordinal, facts by counting
video_files.py  write_video, atomic

window_listing.py  what a source of signals gives: windows, and what is known about each
window_scan.py     scan_windows: source -> damage and splits -> manifest and signals
window_splits.py   designs: official, leave-one-subject-out, folds, blocks without subjects (pure)

These never import torch, nor does frame_plan.py; transforms, augmentation and the loader do.
"""
