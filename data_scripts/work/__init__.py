"""How conversions work: archives, folders, processes, jobs that go on after a kill."""
