"""The sites of a simulation: worker-0, worker-1 and so on, each with its part of the data."""

from learning import Site


def site_name(index: int) -> str:
    return f"worker-{index}"


def simulated_site(index: int, num_sites: int, partition: str) -> Site:
    """The site of one simulated worker; the sites' parts are disjoint, and the same in every process."""
    return Site(name=site_name(index), partition=partition, index=index, num_sites=num_sites)
