from project import Classifier, Points

from ltpl.cli import LotteryCLI

LotteryCLI(Classifier, Points)
