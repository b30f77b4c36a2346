"""The best schedule of shares in hindsight, for the same requests.

``search`` finds one by playing episodes, ``dp`` plans inside it, ``objective`` says what is best.
It knows no agents, so that training may imitate its schedules.
"""
