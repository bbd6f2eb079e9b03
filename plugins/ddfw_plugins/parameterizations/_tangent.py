"""Prototype."""
import torch

EQ = {"c": ("nrhw", "ncr", "nchw"), "h": ("ncrw", "nhr", "nchw"), "w": ("nchr", "nwr", "nchw")}
MULT = {"c": "nrhw,nrs->nshw", "h": "ncrw,nrs->ncsw", "w": "nchr,nrs->nchs"}
GRAM = {"c": "nrhw,nshw->nrs", "h": "ncrw,ncsw->nrs", "w": "nchr,nchs->nrs"}

def direction(self, params, gradients):
    counts = params["counts"]
    S = counts.shape[1]
    sub = torch.arange(S).repeat(len(counts)).repeat_interleave(counts.flatten())
    shape = params["core_shape"].tolist()
    dt = params["cores"].dtype
    maps = {m: params[f"map_{m}"].double() for m in "chw" if f"map_{m}" in params}
    grams = {m: u.transpose(1, 2) @ u for m, u in maps.items()}
    inv = {m: torch.linalg.inv(g) for m, g in grams.items()}
    B = params["cores"].double().view(-1, *shape)
    dB = gradients["cores"].double().view(-1, *shape)
    out = {}
    d = dB
    for m in maps:
        d = torch.einsum(MULT[m], d, inv[m][sub])
    out["cores"] = d.reshape(len(d), -1).to(dt)
    for m, u in maps.items():
        E = B
        for o in maps:
            if o != m:
                E = torch.einsum(MULT[o], E, grams[o][sub])
        per = torch.einsum(GRAM[m], B, E)
        H = torch.zeros(S, per.shape[1], per.shape[1], dtype=torch.float64).index_add_(0, sub, per)
        lam = torch.einsum("srq,sqr->s", H, grams[m]) / H.shape[1]
        H = H + max(self.damping, 1e-10) * lam[:, None, None] * inv[m]
        g = gradients[f"map_{m}"].double()
        if self.method == "tangent":
            g = g - u @ (inv[m] @ (u.transpose(1, 2) @ g))
        out[f"map_{m}"] = torch.linalg.solve(H, g.transpose(1, 2)).transpose(1, 2).to(dt)
    return out
