"""``make bench``: how fast minivar is, against a plain reference, its own past and the limits of the machine.

``workloads`` says what is timed, ``measuring`` how, ``memory`` what it takes at its peak, ``report`` how it is shown;
``reference`` is the plain implementation of the published design, ``old`` the package of a commit long ago.
"""
