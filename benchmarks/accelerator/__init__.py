"""What only an accelerator can show, most important first, in the time there is.

`plan` says which parts there are and what they are made of, `conduct` runs each in a process of its
own and keeps what it found, `process` is that process, `page` makes tables of it.
"""
