"""Papers that several components come from."""

#: Trajectory matching itself: checkpoints as targets, free pixels, the ratio loss.
MTT = """@inproceedings{cazenavette2022mtt,
  title = {Dataset Distillation by Matching Training Trajectories},
  author = {Cazenavette, George and Wang, Tongzhou and Torralba, Antonio and Efros, Alexei A. and Zhu, Jun-Yan},
  booktitle = {CVPR},
  year = {2022}
}"""
